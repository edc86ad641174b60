// The memory and CPU time that Linux's control groups leave this process. A limit may stand at any level above the
// process and in either version of control groups; the tightest one holds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace duo {

/// Bytes that the process and its neighbours in a group may still take before a limit of memory makes the kernel kill
/// one of them; empty when no group has such a limit. Page cache that the kernel can drop at once counts as left, as it
/// does in MemAvailable. `root` stands before /proc and /sys: tests have trees of their own.
std::optional<uint64_t> CgroupMemoryLeft(const std::string& root = "");

/// CPUs whose whole time the tightest quota is worth, rounded up, at least 1; empty without a quota.
std::optional<int> CgroupCpus(const std::string& root = "");

}  // namespace duo
