#include "base/memory_info.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/cgroup.h"

namespace duo {
namespace {

/// The number after `key` in a file of "Key:  123 kB" lines, in bytes; 0 when absent.
uint64_t KilobytesLine(const std::string& path, const char* key) {
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return 0;
  char line[256];
  uint64_t bytes = 0;
  const size_t length = std::strlen(key);
  while (std::fgets(line, sizeof line, file) != nullptr) {
    unsigned long long kilobytes = 0;
    if (std::strncmp(line, key, length) == 0 && std::sscanf(line + length, ": %llu", &kilobytes) == 1) {
      bytes = kilobytes * 1024;
      break;
    }
  }
  std::fclose(file);
  return bytes;
}

}  // namespace

uint64_t AvailableMemoryBytes(const std::string& root) {
  const uint64_t available = KilobytesLine(root + "/proc/meminfo", "MemAvailable");
  return std::min(available, CgroupMemoryLeft(root).value_or(available));
}

uint64_t MemoryBudget(uint64_t limit, uint64_t available_bytes, uint64_t mapped_bytes) {
  if (limit != 0) return limit;
  return available_bytes > mapped_bytes ? available_bytes - mapped_bytes : 0;
}

uint64_t PeakRssBytes() { return KilobytesLine("/proc/self/status", "VmHWM"); }
uint64_t CurrentRssBytes() { return KilobytesLine("/proc/self/status", "VmRSS"); }

bool ResetPeakRss() {
  std::FILE* file = std::fopen("/proc/self/clear_refs", "we");
  if (file == nullptr) return false;
  const bool ok = std::fputs("5", file) >= 0;
  return std::fclose(file) == 0 && ok;
}

std::string FormatBytes(uint64_t bytes) {
  static const char* const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = bytes;
  int unit = 0;
  while (value >= 1024 && unit < 5) {
    value /= 1024;
    ++unit;
  }
  const int decimals = unit == 0 ? 0 : value < 10 ? 2 : 1;
  return fmt::format("{:.{}f} {}", value, decimals, kUnits[unit]);
}

}  // namespace duo
