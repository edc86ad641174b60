// What the operating system says about memory.
#pragma once

#include <cstdint>
#include <string>

namespace duo {

/// Bytes this process could still take without swapping: the kernel's MemAvailable, or what its control groups leave
/// if that is less (base/cgroup.h). Page cache counts as available, mapped files in it too. `root` stands before /proc
/// and /sys: tests have trees of their own.
uint64_t AvailableMemoryBytes(const std::string& root = "");

/// What new memory may be taken from: `limit`, or when that is 0 what is available, less bytes mapped from files that
/// have to stay resident. Those count once, and the same whether they lie in the page cache already, were read by
/// another group, or are yet to be read: `available_bytes` counts them as available in each case.
uint64_t MemoryBudget(uint64_t limit, uint64_t available_bytes, uint64_t mapped_bytes);

/// Largest resident set this process has had, and the present one.
uint64_t PeakRssBytes();
uint64_t CurrentRssBytes();
/// Restarts the peak at the present size (Linux: /proc/self/clear_refs); false when the kernel refuses.
bool ResetPeakRss();

/// "512 B", "8.00 KiB", "23.4 GiB".
std::string FormatBytes(uint64_t bytes);

}  // namespace duo
