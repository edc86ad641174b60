// Runs a kernel's grid on one CPU thread, one block after another. Each CUDA thread is a fiber that yields at barriers
// and at warp-wide operations. Behaviour that CUDA leaves undefined ends the program with a message: threads of a block
// that wait for different things, and warp-wide operations without the whole warp.
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
constexpr int kMaxThreads = 1024;      // per block
constexpr size_t kExchangeBytes = 64;  // maximum bytes per lane in one exchange

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

struct ThreadView {
  Dim thread{0, 0, 0}, block{0, 0, 0};
  Dim block_size, grid_size;
};

/// These four describe the running thread. Except InKernel, they may be called only inside a kernel.
const ThreadView& ThisThread();
int Lane();
uint8_t* SharedMemory();
bool InKernel();

void WaitForBlock();
void WaitForWarp();

/// The values of a warp's 32 lanes in one exchange. Valid until this lane's second exchange after it.
struct Exchange {
  const uint8_t* slots;
  const uint8_t* of(int lane) const { return slots + static_cast<size_t>(lane) * kExchangeBytes; }
};
Exchange ExchangeInWarp(const void* mine, size_t bytes);

/// The order in which threads that are ready run. Results must not depend on it.
enum class Schedule : uint8_t { kAscending, kDescending, kShuffled };
void SetSchedule(Schedule schedule);

/// Runs `body` for every thread of the grid. Shared memory starts as NaNs, so that a read before a write shows in the
/// results.
void RunGrid(const Dim& grid, const Dim& block, size_t shared_bytes, const std::function<void()>& body);

/// cp.async: the copies happen when the thread waits for them, not before.
void CopyAsync(void* to, const void* from, size_t bytes);
void CommitCopies();
/// Waits for all groups of copies that this thread committed, except the last `n_left`.
void WaitForCopies(int n_left);

[[noreturn]] void Die(const char* what);
/// Dies when the address is not a multiple of `bytes`.
void CheckAligned(const void* data, size_t bytes);

}  // namespace cuda_on_host
