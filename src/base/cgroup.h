// The memory and CPU time that Linux's control groups leave to this process. Any group above the process may have a
// limit, in either version of control groups. The tightest limit holds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace duo {

/// Bytes that the process and its neighbours in a group may still take before the kernel kills one of them for reaching
/// a memory limit. Empty when no group has such a limit. Page cache that the kernel can drop at once counts as left, as
/// in MemAvailable. `root` is put before /proc and /sys, so that tests can use trees of their own.
std::optional<uint64_t> CgroupMemoryLeft(const std::string& root = "");

/// The tightest CPU quota in whole CPUs, rounded up, at least 1. Empty without a quota.
std::optional<int> CgroupCpus(const std::string& root = "");

}  // namespace duo
