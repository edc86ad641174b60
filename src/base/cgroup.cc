#include "base/cgroup.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <sstream>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace duo {
namespace {

constexpr size_t kMaxFileBytes = size_t{4} << 20;  // size of a file of /proc or of a control group
// Version 1 writes "no limit" as the largest multiple of a page. No machine has that much memory.
constexpr uint64_t kNoLimit = uint64_t{1} << 60;

enum class Version { k1, k2 };

/// One group that the process is in, directly or through its parents.
struct Level {
  std::string directory;
  Version version = Version::k2;
};

/// A place where a hierarchy of groups can be read. `top` is the group whose files are in `point` itself. For a
/// container that hides the groups above it, this is the container's own group.
struct Mount {
  std::string point;
  std::string top;
  Version version = Version::k2;
  std::string controllers;  // only version 1: "rw,cpu,cpuacct"
};

std::string Text(const std::string& path) {
  Result<std::string> text = ReadFile(path, kMaxFileBytes);
  return text.ok() ? *std::move(text) : std::string();
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

bool Lists(const std::string& names, std::string_view name) {
  const std::vector<std::string> all = Split(names, ',');
  return std::find(all.begin(), all.end(), name) != all.end();
}

std::optional<uint64_t> Number(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool ends = end == text.data() + text.size() || *end == '\n' || *end == ' ';
  return error == std::errc() && ends ? std::optional(value) : std::nullopt;
}

/// 0 when the file has no such line.
uint64_t NumberOfLine(const std::string& text, const std::string& key) {
  for (const std::string& line : Split(text, '\n')) {
    if (line.starts_with(key + " ")) return Number(line.substr(key.size() + 1)).value_or(0);
  }
  return 0;
}

std::vector<Mount> Mounts(const std::string& root) {
  std::vector<Mount> mounts;
  for (const std::string& line : Split(Text(root + "/proc/self/mountinfo"), '\n')) {
    // 35 31 0:32 /top /sys/fs/cgroup/memory rw,relatime [optional fields] - cgroup cgroup rw,memory
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> left = Split(line.substr(0, dash), ' ');
    const std::vector<std::string> right = Split(line.substr(dash + 3), ' ');
    if (left.size() < 5 || right.size() < 3) continue;
    if (right[0] == "cgroup2") mounts.push_back({left[4], left[3], Version::k2, ""});
    if (right[0] == "cgroup") mounts.push_back({left[4], left[3], Version::k1, right[2]});
  }
  if (!mounts.empty()) return mounts;
  return {{"/sys/fs/cgroup", "/", Version::k2, ""},
          {"/sys/fs/cgroup/memory", "/", Version::k1, "memory"},
          {"/sys/fs/cgroup/cpu", "/", Version::k1, "cpu"}};
}

/// The group of the process in a hierarchy, as a path below the top; "" for the top itself.
std::string GroupBelow(const Mount& mount, std::string_view controller, const std::string& groups) {
  for (const std::string& line : Split(groups, '\n')) {
    // 0::/a/b, 4:memory:/a/b
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool is_it = mount.version == Version::k2 ? controllers.empty() : Lists(controllers, controller);
    if (!is_it) continue;
    std::string group = line.substr(second + 1);
    // A process that was moved out of its namespace is in "/../other", which cannot be read from here.
    if (!group.starts_with('/') || group.starts_with("/..") || group == "/" || group == mount.top) return "";
    if (mount.top != "/" && group.starts_with(mount.top + "/")) group.erase(0, mount.top.size());
    return group;
  }
  return "";
}

/// The groups that may limit `controller` for this process, from its own up to the top of each hierarchy. Some of the
/// directories may not exist, because a container may see paths of its host.
std::vector<Level> LevelsOf(const std::string& root, std::string_view controller) {
  std::vector<Level> levels;
  const std::string groups = Text(root + "/proc/self/cgroup");
  for (const Mount& mount : Mounts(root)) {
    if (mount.version == Version::k1 && !Lists(mount.controllers, controller)) continue;
    std::string group = GroupBelow(mount, controller, groups);
    while (!group.empty()) {
      levels.push_back({root + mount.point + group, mount.version});
      group.erase(group.rfind('/'));
    }
    levels.push_back({root + mount.point, mount.version});
  }
  return levels;
}

/// Bytes that the kernel drops when the group needs memory: slabs, and file pages that need not be written first.
uint64_t Reclaimable(const std::string& stat, const std::string& prefix, const std::string& dirty,
                     const std::string& writeback) {
  const uint64_t cache = NumberOfLine(stat, prefix + "active_file") + NumberOfLine(stat, prefix + "inactive_file");
  const uint64_t unwritten = NumberOfLine(stat, dirty) + NumberOfLine(stat, writeback);
  return cache - std::min(cache, unwritten) + NumberOfLine(stat, "slab_reclaimable");
}

std::optional<uint64_t> MemoryLeft(const Level& level) {
  const auto number = [&](const char* name) { return Number(Text(level.directory + "/" + name)); };
  const std::string stat = Text(level.directory + "/memory.stat");
  uint64_t limit = kNoLimit, used = 0, reclaimable = 0;
  if (level.version == Version::k2) {
    // Above memory.high the kernel slows the group down until it uses less memory.
    limit = std::min(number("memory.max").value_or(kNoLimit), number("memory.high").value_or(kNoLimit));
    used = number("memory.current").value_or(0);
    reclaimable = Reclaimable(stat, "", "file_dirty", "file_writeback");
  } else {
    // hierarchical_memory_limit is the tightest limit of all levels, including those above the top.
    limit = number("memory.limit_in_bytes").value_or(kNoLimit);
    if (const uint64_t above = NumberOfLine(stat, "hierarchical_memory_limit"); above > 0)
      limit = std::min(limit, above);
    used = number("memory.usage_in_bytes").value_or(0);
    reclaimable = Reclaimable(stat, "total_", "total_dirty", "total_writeback");
  }
  if (limit >= kNoLimit) return std::nullopt;
  used -= std::min(used, reclaimable);
  return limit - std::min(limit, used);
}

std::optional<int64_t> Cpus(const Level& level) {
  std::optional<uint64_t> quota, period;  // microseconds
  if (level.version == Version::k2) {
    const std::string text = Text(level.directory + "/cpu.max");  // "max 100000", "150000 100000"
    const size_t blank = text.find(' ');
    quota = Number(text);
    if (blank != std::string::npos) period = Number(text.substr(blank + 1));
  } else {
    quota = Number(Text(level.directory + "/cpu.cfs_quota_us"));  // -1 without a quota
    period = Number(Text(level.directory + "/cpu.cfs_period_us"));
  }
  if (!quota || !period || *quota == 0 || *period == 0) return std::nullopt;
  return (*quota - 1) / *period + 1;
}

}  // namespace

std::optional<uint64_t> CgroupMemoryLeft(const std::string& root) {
  std::optional<uint64_t> least;
  for (const Level& level : LevelsOf(root, "memory")) {
    const std::optional<uint64_t> left = MemoryLeft(level);
    if (left) least = std::min(*left, least.value_or(*left));
  }
  return least;
}

std::optional<int> CgroupCpus(const std::string& root) {
  std::optional<int64_t> least;
  for (const Level& level : LevelsOf(root, "cpu")) {
    const std::optional<int64_t> cpus = Cpus(level);
    if (cpus) least = std::min(*cpus, least.value_or(*cpus));
  }
  if (!least) return std::nullopt;
  return std::min<int64_t>(*least, std::numeric_limits<int>::max());
}

}  // namespace duo
