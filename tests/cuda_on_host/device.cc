#include "cuda_on_host/device.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#ifdef CUDA_ON_HOST_SANITIZED
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace cuda_on_host {
namespace {

constexpr size_t kArenaBytes = size_t{1} << 40;
constexpr size_t kAlign = 256;
constexpr size_t kRedZone = 256;
constexpr size_t kPage = size_t{2} << 20;
// Far from the addresses where this system puts heaps, stacks and libraries.
const auto kArenaBegin = reinterpret_cast<uint8_t*>(uintptr_t{0x200000000000});
constexpr size_t kMaxQueued = 100000;

struct Device {
  DeviceFacts facts;
  std::map<uint8_t*, size_t> allocations;  // by cudaMalloc
  std::map<uint8_t*, size_t> pinned;
  std::deque<std::function<void()>> queue;
  size_t used = 0;
  uint8_t* next = kArenaBegin;  // addresses are not used twice, so that a stale pointer faults
  int n_access = 0;
  int error = 0;
  int fail_next = 0;
  int64_t n_kernels = 0;
  int64_t n_graphs = 0;
  std::map<const void*, BindArguments> kernels;
  bool draining = false;

  Device() {
    void* at = mmap(kArenaBegin, kArenaBytes, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (at != kArenaBegin) Die("no address space for device memory");
  }
  void Protect(int protection) {
    if (next != kArenaBegin) mprotect(kArenaBegin, static_cast<size_t>(next - kArenaBegin), protection);
  }
};

Device& TheDevice() {
  static Device* const device = new Device;
  return *device;
}

/// Every function that is called outside kernels holds it, so that a program's threads take turns.
std::recursive_mutex& Turn() {
  static std::recursive_mutex* const mutex = new std::recursive_mutex;
  return *mutex;
}
using Guard = std::lock_guard<std::recursive_mutex>;

size_t Up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

uint8_t* NewRange(size_t bytes, size_t align) {
  Device& d = TheDevice();
  uint8_t* begin = kArenaBegin + Up(static_cast<size_t>(d.next - kArenaBegin), align);
  uint8_t* end = begin + Up(bytes, 4096) + 4096;
  if (end > kArenaBegin + kArenaBytes) Die("device addresses are used up");
  const bool access = d.n_access > 0;
  d.next = end;
  if (access) d.Protect(PROT_READ | PROT_WRITE);
  ASAN_POISON_MEMORY_REGION(begin, static_cast<size_t>(end - begin));
  return begin;
}

void Forget(uint8_t* begin, size_t bytes) {
  ASAN_POISON_MEMORY_REGION(begin, bytes);
  madvise(begin, Up(bytes, 4096), MADV_DONTNEED);
}

bool Within(const std::map<uint8_t*, size_t>& ranges, const void* data) {
  const auto* at = static_cast<const uint8_t*>(data);
  auto after = ranges.upper_bound(const_cast<uint8_t*>(at));
  if (after == ranges.begin()) return false;
  --after;
  return at < after->first + after->second;
}

}  // namespace

DeviceFacts& Facts() { return TheDevice().facts; }
void FailNextKernel(int error) { TheDevice().fail_next = error; }
size_t UsedBytes() { return TheDevice().used; }
int64_t KernelsRun() { return TheDevice().n_kernels; }
int64_t& GraphsLaunched() { return TheDevice().n_graphs; }

void Enqueue(std::function<void()> work) {
  const Guard guard(Turn());
  Device& d = TheDevice();
  d.queue.push_back(std::move(work));
  if (d.queue.size() >= kMaxQueued) Drain();
}

void Drain() {
  const Guard guard(Turn());
  Device& d = TheDevice();
  if (d.draining) return;
  d.draining = true;
  while (!d.queue.empty()) {
    d.queue.front()();
    d.queue.pop_front();
  }
  d.draining = false;
}

bool TakeBytes(size_t bytes) {
  const Guard guard(Turn());
  Device& d = TheDevice();
  if (bytes > d.facts.memory_bytes - d.used) return false;
  d.used += bytes;
  return true;
}

void GiveBytes(size_t bytes) {
  const Guard guard(Turn());
  TheDevice().used -= bytes;
}

void* AllocateDevice(size_t bytes) {
  const Guard guard(Turn());
  if (!TakeBytes(bytes)) return nullptr;
  uint8_t* data = NewRange(bytes + kRedZone, kAlign);
  ASAN_UNPOISON_MEMORY_REGION(data, bytes);
  {
    const DeviceAccess access;
    std::memset(data, 0xff, bytes);  // NaNs, and indices that are out of bounds
  }
  TheDevice().allocations[data] = bytes;
  return data;
}

void FreeDevice(void* data) {
  const Guard guard(Turn());
  if (data == nullptr) return;
  Drain();
  Device& d = TheDevice();
  const auto at = d.allocations.find(static_cast<uint8_t*>(data));
  if (at == d.allocations.end()) Die("freed device memory that was not allocated");
  Forget(at->first, at->second);
  d.used -= at->second;
  d.allocations.erase(at);
}

void* AllocatePinned(size_t bytes) {
  const Guard guard(Turn());
  void* data = std::aligned_alloc(4096, Up(bytes == 0 ? 1 : bytes, 4096));
  TheDevice().pinned[static_cast<uint8_t*>(data)] = bytes;
  return data;
}

void FreePinned(void* data) {
  const Guard guard(Turn());
  if (data == nullptr) return;
  Drain();
  if (TheDevice().pinned.erase(static_cast<uint8_t*>(data)) == 0) Die("freed pinned memory that was not allocated");
  std::free(data);
}

bool IsPinned(const void* data) {
  const Guard guard(Turn());
  return Within(TheDevice().pinned, data);
}

bool IsDevice(const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  return at >= kArenaBegin && at + bytes <= TheDevice().next;
}

void* ReserveDevice(size_t bytes) {
  const Guard guard(Turn());
  return NewRange(bytes, kPage);
}

void ReleaseDevice(void* data, size_t bytes) {
  const Guard guard(Turn());
  Drain();
  Forget(static_cast<uint8_t*>(data), bytes);
}

void MapDevice(void* data, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(data, bytes); }

void UnmapDevice(void* data, size_t bytes) {
  const Guard guard(Turn());
  Drain();
  Forget(static_cast<uint8_t*>(data), bytes);
}

DeviceAccess::DeviceAccess() {
  Turn().lock();
  Device& d = TheDevice();
  if (d.n_access++ == 0) d.Protect(PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
  Device& d = TheDevice();
  if (--d.n_access == 0) d.Protect(PROT_NONE);
  Turn().unlock();
}

void KnowKernel(const void* kernel, BindArguments bind) {
  const Guard guard(Turn());
  TheDevice().kernels[kernel] = bind;
}

std::function<void()> Bind(const void* kernel, void** arguments) {
  const Guard guard(Turn());
  const auto found = TheDevice().kernels.find(kernel);
  if (found == TheDevice().kernels.end()) Die("an unknown kernel is launched");
  return found->second(kernel, arguments);
}

void CheckArgument(const void* bytes, size_t n) {
  // Heaps and libraries of programs are at 0x55.. and 0x7..., those of sanitized programs at 0x6.... Counts and pairs
  // of floats among kernels' arguments do not look like that.
  for (size_t at = 0; at + 8 <= n; at += 8) {
    uint64_t word;
    std::memcpy(&word, static_cast<const uint8_t*>(bytes) + at, 8);
    const uint64_t top = word >> 40;
    const bool like_one = (top >= 0x55 && top <= 0x56) || (top >= 0x60 && top <= 0x7f);
    // Padding may look like an address, but hardly like an address of mapped memory.
    unsigned char resident;
    if (like_one && mincore(reinterpret_cast<void*>(word / 4096 * 4096), 1, &resident) == 0) {
      std::fprintf(stderr, "at byte %zu of an argument: %zx\n", at, static_cast<size_t>(word));
      Die("a kernel is given the address of host memory");
    }
  }
}

void RunKernel(const Dim& grid, const Dim& block, size_t shared_bytes, const std::function<void()>& body) {
  Device& d = TheDevice();
  if (d.error != 0) return;
  ++d.n_kernels;
  if (d.fail_next != 0) {
    d.error = std::exchange(d.fail_next, 0);
    return;
  }
  const DeviceAccess access;
  RunGrid(grid, block, shared_bytes, body);
}

int TakeError() { return TheDevice().error; }  // faults of kernels stay
int PeekError() { return TheDevice().error; }
void SetError(int error) { TheDevice().error = error; }

}  // namespace cuda_on_host
