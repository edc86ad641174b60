// Limits of control groups, read from trees like those of Linux, Docker and systemd.
#include "base/cgroup.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <limits>
#include <string>
#include <thread>

#include "base/memory_info.h"
#include "base/parallel.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr const char* kV2Mount = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
constexpr const char* kV1Mounts =
    "30 23 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "32 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 30 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
// Version 1 writes this when there is no limit.
constexpr const char* kNoLimitV1 = "9223372036854771712\n";

std::string Bytes(uint64_t mib) { return std::to_string(mib * kMiB) + "\n"; }

class CgroupTest : public testing::Test {
 protected:
  void File(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_.file(name)).parent_path());
    root_.Write(name, text);
  }
  /// A group of version 2 with its limit, its use, and how much of the use is clean page cache.
  void V2(const std::string& group, const std::string& limit, uint64_t used_mib, uint64_t cache_mib = 0) {
    const std::string directory = "sys/fs/cgroup" + group + "/";
    File(directory + "memory.max", limit);
    File(directory + "memory.current", Bytes(used_mib));
    File(directory + "memory.stat", "anon 12345\nfile " + Bytes(cache_mib) + "inactive_anon 7\nactive_file " +
                                        Bytes(cache_mib / 4) + "inactive_file " + Bytes(cache_mib - cache_mib / 4));
  }
  void V1(const std::string& group, const std::string& limit, uint64_t used_mib, uint64_t cache_mib = 0,
          const std::string& hierarchical = kNoLimitV1) {
    const std::string directory = "sys/fs/cgroup/memory" + group + "/";
    File(directory + "memory.limit_in_bytes", limit);
    File(directory + "memory.usage_in_bytes", Bytes(used_mib));
    File(directory + "memory.stat", "cache 5\nactive_file 1\nhierarchical_memory_limit " + hierarchical +
                                        "total_active_file " + Bytes(cache_mib / 4) + "total_inactive_file " +
                                        Bytes(cache_mib - cache_mib / 4));
  }
  std::string root() const { return root_.path(); }
  uint64_t LeftMib() const { return CgroupMemoryLeft(root()).value_or(0) / kMiB; }

  TempDir root_;
};

TEST_F(CgroupTest, WithoutGroupsThereIsNoLimit) {
  EXPECT_EQ(CgroupMemoryLeft(root()), std::nullopt);
  EXPECT_EQ(CgroupCpus(root()), std::nullopt);
}

TEST_F(CgroupTest, AContainersOwnGroupIsTheTop) {
  File("proc/self/cgroup", "0::/\n");
  File("proc/self/mountinfo", kV2Mount);
  V2("", Bytes(900), 100);
  EXPECT_EQ(LeftMib(), 800u);
  V2("", "max\n", 100);
  EXPECT_EQ(CgroupMemoryLeft(root()), std::nullopt);
}

TEST_F(CgroupTest, TheTightestLevelOfV2Holds) {
  File("proc/self/cgroup", "0::/user.slice/user-1000.slice/app.scope\n");
  File("proc/self/mountinfo", kV2Mount);
  V2("/user.slice", Bytes(4000), 1000);
  V2("/user.slice/user-1000.slice", Bytes(1500), 1000);
  V2("/user.slice/user-1000.slice/app.scope", "max\n", 200);
  EXPECT_EQ(LeftMib(), 500u) << "a limit in the middle";
  V2("/user.slice", Bytes(1200), 1000);
  EXPECT_EQ(LeftMib(), 200u) << "a limit at the top";
  V2("/user.slice/user-1000.slice/app.scope", Bytes(300), 200);
  EXPECT_EQ(LeftMib(), 100u) << "its own";
  File("sys/fs/cgroup/user.slice/user-1000.slice/app.scope/memory.high", Bytes(250));
  EXPECT_EQ(LeftMib(), 50u) << "where the kernel begins to slow it down";
  V2("/other.slice", Bytes(1), 1);
  EXPECT_EQ(LeftMib(), 50u) << "a neighbour's limit is not its own";
}

// A container has 900 MiB, and its page cache holds the model of 700 MiB that a first process read. A second process
// was once refused with "0 B are available".
TEST_F(CgroupTest, PageCacheOfTheModelIsNotUsedMemory) {
  File("proc/self/cgroup", "0::/\n");
  File("proc/self/mountinfo", kV2Mount);
  File("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n");
  const auto budget = [&] { return MemoryBudget(0, AvailableMemoryBytes(root()), 700 * kMiB) / kMiB; };
  V2("", Bytes(900), 40);
  const uint64_t first = budget();
  EXPECT_EQ(first, 160u) << "the model is not read yet";
  V2("", Bytes(900), 740, 700);
  EXPECT_EQ(budget(), first) << "the model is in this group's page cache";
  V2("", Bytes(900), 390, 350);
  EXPECT_EQ(budget(), first) << "half of the model was read by another group";
}

TEST_F(CgroupTest, PagesToBeWrittenFirstAreUsedAndSlabsAreNot) {
  File("proc/self/cgroup", "0::/\n");
  File("proc/self/mountinfo", kV2Mount);
  V2("", Bytes(900), 800);
  const std::string files = "active_file " + Bytes(100) + "inactive_file " + Bytes(300);
  File("sys/fs/cgroup/memory.stat", files);
  EXPECT_EQ(LeftMib(), 500u);
  File("sys/fs/cgroup/memory.stat", files + "file_dirty " + Bytes(50) + "file_writeback " + Bytes(20));
  EXPECT_EQ(LeftMib(), 430u);
  File("sys/fs/cgroup/memory.stat", files + "slab_reclaimable " + Bytes(10) + "slab_unreclaimable " + Bytes(30));
  EXPECT_EQ(LeftMib(), 510u);
  File("sys/fs/cgroup/memory.stat", "active_file " + Bytes(5000));
  EXPECT_EQ(LeftMib(), 900u) << "never more than the limit";
}

TEST_F(CgroupTest, V1LimitsAreSeen) {
  File("proc/self/cgroup", "12:cpu,cpuacct:/a/b\n4:memory:/a/b\n1:name=systemd:/other\n0::/\n");
  File("proc/self/mountinfo", kV1Mounts);
  V1("", kNoLimitV1, 5000);
  V1("/a", Bytes(1000), 700, 100);
  V1("/a/b", kNoLimitV1, 100);
  EXPECT_EQ(LeftMib(), 400u) << "the parent's limit less what it uses, without page cache";
  V1("/a/b", Bytes(300), 250, 50);
  EXPECT_EQ(LeftMib(), 100u);
}

// Docker with version 1 shows a container its group's files at the mount's point, but tells it the host's path.
TEST_F(CgroupTest, TheHostsPathInAContainer) {
  File("proc/self/cgroup", "4:memory:/docker/0123abcd/inner\n3:cpu,cpuacct:/docker/0123abcd\n");
  File("proc/self/mountinfo",
       "35 30 0:32 /docker/0123abcd /sys/fs/cgroup/memory ro,nosuid master:16 - cgroup cgroup rw,memory\n"
       "36 30 0:33 /docker/0123abcd /sys/fs/cgroup/cpu ro,nosuid master:17 - cgroup cgroup rw,cpu,cpuacct\n");
  V1("", Bytes(900), 100);
  EXPECT_EQ(LeftMib(), 800u);
  V1("/inner", Bytes(500), 100);
  EXPECT_EQ(LeftMib(), 400u);
  V1("/inner", Bytes(500), 100, 0, Bytes(200));
  EXPECT_EQ(LeftMib(), 100u) << "a limit above what the container sees";
  File("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n");
  File("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(CgroupCpus(root()), 2);
}

TEST_F(CgroupTest, PathsThatAreNotThere) {
  V2("", Bytes(900), 100);
  EXPECT_EQ(LeftMib(), 800u) << "without mountinfo and the process's groups, the usual place is read";
  File("proc/self/mountinfo", kV2Mount);
  for (const char* group : {"0::/docker/0123abcd\n", "0::/../sibling\n", "0::/..\n"}) {
    File("proc/self/cgroup", group);
    EXPECT_EQ(LeftMib(), 800u) << group;
  }
}

// The memory controller is of version 1, beside an empty hierarchy of version 2. systemd calls this "hybrid".
TEST_F(CgroupTest, Hybrid) {
  File("proc/self/cgroup", "4:memory:/a\n1:name=systemd:/a\n0::/a\n");
  File("proc/self/mountinfo",
       std::string(kV1Mounts) + "41 30 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
  File("sys/fs/cgroup/unified/a/cgroup.procs", "1\n");
  V1("/a", Bytes(400), 100);
  EXPECT_EQ(LeftMib(), 300u);
  File("sys/fs/cgroup/unified/a/memory.max", Bytes(250));
  File("sys/fs/cgroup/unified/a/memory.current", Bytes(100));
  EXPECT_EQ(LeftMib(), 150u);
}

TEST_F(CgroupTest, GarbageIsNoLimit) {
  File("proc/self/cgroup", "0::/\nnonsense\n::\n4:memory\n4:memory:a/b\n");
  File("proc/self/mountinfo", std::string("- -\n - \n1 2 3 - cgroup2\n") + kV2Mount + kV1Mounts);
  for (const char* garbage : {"", "\n", "many\n", "-1\n", "12abc\n", "1e9\n", "99999999999999999999999\n", "0x100\n"}) {
    V2("", garbage, 100);
    V1("", garbage, 100, 0, garbage);
    File("sys/fs/cgroup/cpu.max", garbage);
    File("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", garbage);
    EXPECT_EQ(CgroupMemoryLeft(root()), std::nullopt) << garbage;
    EXPECT_EQ(CgroupCpus(root()), std::nullopt) << garbage;
  }
  V2("", Bytes(900), 100);
  File("sys/fs/cgroup/memory.current", "many\n");
  EXPECT_EQ(LeftMib(), 900u) << "a limit holds although its use cannot be read";
}

TEST_F(CgroupTest, QuotasOfEveryLevelAndVersion) {
  File("proc/self/cgroup", "0::/a/b\n");
  File("proc/self/mountinfo", kV2Mount);
  File("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(CgroupCpus(root()), std::nullopt);
  File("sys/fs/cgroup/a/cpu.max", "250000 100000\n");
  EXPECT_EQ(CgroupCpus(root()), 3) << "two CPUs and a half, rounded up";
  File("sys/fs/cgroup/a/b/cpu.max", "10000 100000\n");
  EXPECT_EQ(CgroupCpus(root()), 1);
  File("sys/fs/cgroup/a/b/cpu.max", "200000 0\n");
  EXPECT_EQ(CgroupCpus(root()), 3);
  File("sys/fs/cgroup/a/cpu.max", "9223372036854775807 1\n");
  EXPECT_EQ(CgroupCpus(root()), std::numeric_limits<int>::max());

  File("proc/self/cgroup", "12:cpu,cpuacct:/x/y\n");
  File("proc/self/mountinfo", kV1Mounts);
  const std::string x = "sys/fs/cgroup/cpu,cpuacct/x/";
  File(x + "cpu.cfs_quota_us", "-1\n");
  File(x + "cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(CgroupCpus(root()), std::nullopt);
  File(x + "cpu.cfs_quota_us", "400000\n");
  EXPECT_EQ(CgroupCpus(root()), 4);
  File(x + "y/cpu.cfs_quota_us", "50000\n");
  File(x + "y/cpu.cfs_period_us", "50000\n");
  EXPECT_EQ(CgroupCpus(root()), 1);
}

TEST(AvailableThreads, KeepsToTheQuota) {
  EXPECT_GE(AvailableThreads(), 1);
  EXPECT_LE(AvailableThreads(), CgroupCpus().value_or(std::numeric_limits<int>::max()));
}

TEST(AvailableThreads, KeepsToTheCoresItMayUse) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
  std::thread([&] {  // with a mask of its own
    cpu_set_t some;
    CPU_ZERO(&some);
    int n = 0;
    for (int core = 0; core < CPU_SETSIZE && n < 2; ++core) {
      if (!CPU_ISSET(core, &all)) continue;
      CPU_SET(core, &some);
      ++n;
      ASSERT_EQ(sched_setaffinity(0, sizeof some, &some), 0);
      EXPECT_EQ(AvailableThreads(), std::min(n, CgroupCpus().value_or(n))) << "all the cores of its mask";
    }
  })
      .join();
}

TEST_F(CgroupTest, AvailableIsTheLeastOfTheSystemAndItsGroups) {
  File("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 1048576 kB\n");
  EXPECT_EQ(AvailableMemoryBytes(root()) / kMiB, 1024u);
  V2("", Bytes(4000), 1000);
  EXPECT_EQ(AvailableMemoryBytes(root()) / kMiB, 1024u);
  V2("", Bytes(1500), 1000);
  EXPECT_EQ(AvailableMemoryBytes(root()) / kMiB, 500u);
}

}  // namespace
}  // namespace duo
