// Facts about memory from the operating system.
#pragma once

#include <cstdint>
#include <string>

namespace duo {

/// Bytes that this process could still take without swapping: the kernel's MemAvailable, or what its control groups
/// leave if that is less (base/cgroup.h). Page cache counts as available, even when it holds mapped files. `root` is
/// put before /proc and /sys, so that tests can use trees of their own.
uint64_t AvailableMemoryBytes(const std::string& root = "");

/// Bytes that new memory may take: `limit`, or if that is 0, `available_bytes` - `mapped_bytes`. `mapped_bytes` are
/// bytes of mapped files that must stay resident. `available_bytes` counts them as available in each case: already in
/// the page cache, read by another group, or not yet read. So subtracting them once is always right.
uint64_t MemoryBudget(uint64_t limit, uint64_t available_bytes, uint64_t mapped_bytes);

/// The largest resident set that this process has had, and the current one.
uint64_t PeakRssBytes();
uint64_t CurrentRssBytes();
/// Resets the peak to the current size (Linux: /proc/self/clear_refs). Returns false when the kernel refuses.
bool ResetPeakRss();

/// "512 B", "8.00 KiB", "23.4 GiB".
std::string FormatBytes(uint64_t bytes);

}  // namespace duo
