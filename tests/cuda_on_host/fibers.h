// Runs a kernel's grid on one CPU thread: block after block, each CUDA thread a fiber that gives way at barriers and
// warp-wide operations. What CUDA leaves undefined ends the program with a message: threads of a block that wait for
// different things, warp-wide operations without the whole warp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_ON_HOST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_ON_HOST_SANITIZED 1
#endif
#endif

namespace cuda_on_host {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;      // of a block
constexpr size_t kExchangeBytes = 64;  // most that a lane gives in one exchange

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

struct ThreadView {
  Dim thread{0, 0, 0}, block{0, 0, 0};
  Dim block_size, grid_size;
};

/// Of the running thread; only inside a kernel.
const ThreadView& ThisThread();
int Lane();
uint8_t* SharedMemory();
bool InKernel();

void WaitForBlock();
void WaitForWarp();

/// What the 32 lanes of a warp gave to the same exchange; valid until this lane's next one but one.
struct Exchange {
  const uint8_t* slots;
  const uint8_t* of(int lane) const { return slots + static_cast<size_t>(lane) * kExchangeBytes; }
};
Exchange ExchangeInWarp(const void* mine, size_t bytes);

/// The order in which threads that could go on do: results must not depend on it.
enum class Schedule : uint8_t { kAscending, kDescending, kShuffled };
void SetSchedule(Schedule schedule);

/// Runs `body` for every thread of the grid. Shared memory begins as NaNs, so that what is not written shows.
void RunGrid(const Dim& grid, const Dim& block, size_t shared_bytes, const std::function<void()>& body);

/// cp.async: copies happen when the thread waits for them, no sooner.
void CopyAsync(void* to, const void* from, size_t bytes);
void CommitCopies();
/// All groups of copies but the last n that this thread committed.
void WaitForCopies(int n_left);

[[noreturn]] void Die(const char* what);
/// Dies when an address is not a multiple of this.
void CheckAligned(const void* data, size_t bytes);

}  // namespace cuda_on_host
