#include "base/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <set>
#include <string>

#include "base/file.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

TEST(AtomicFile, TemporaryNamesCannotBePreparedByOthers) {
  const TempDir dir;
  // Older versions used this name. A link of this name let others choose the file that is overwritten.
  const std::string victim = dir.file("victim");
  dir.Write("victim", "untouched");
  std::filesystem::create_symlink(victim, dir.file("file.tmp" + std::to_string(getpid())));
  ASSERT_TRUE(WriteFileAtomic(dir.file("file"), "hello").ok());
  EXPECT_EQ(*ReadFile(victim, 100), "untouched");
  std::set<std::string> names;
  for (int i = 0; i < 3; ++i) {
    const auto file = AtomicFile::Create(dir.file("other"));
    ASSERT_TRUE(file.ok());
    for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("other.tmp")) names.insert(name);
    }
  }
  EXPECT_EQ(names.size(), 3u) << "each has a name of its own and is removed with its owner";
}

TEST(AtomicFile, PrivateFilesAreTheirOwnersAlone) {
  const TempDir dir;
  const auto mode = [&](const std::string& name) {
    return std::filesystem::status(dir.file(name)).permissions() & std::filesystem::perms::mask;
  };
  const mode_t before = umask(0);
  Result<AtomicFile> file = AtomicFile::Create(dir.file("private"), FileAccess::kOwner);
  ASSERT_TRUE(file.ok() && file->Commit().ok());
  ASSERT_TRUE(MakePrivateDirectories(dir.file("a/b/c")).ok());
  ASSERT_TRUE(MakePrivateDirectories(dir.file("a/b/c/")).ok()) << "it already exists";
  umask(before);
  EXPECT_EQ(mode("private"), std::filesystem::perms(0600));
  for (const char* name : {"a", "a/b", "a/b/c"}) EXPECT_EQ(mode(name), std::filesystem::perms(0700)) << name;
  EXPECT_EQ(MakePrivateDirectories(dir.file("private/d")).code(), StatusCode::kIo);
}

TEST(AtomicFile, AppearsWhenItIsWhole) {
  const TempDir dir;
  const std::string path = dir.file("out");
  dir.Write("out", "old");
  {
    auto abandoned = AtomicFile::Create(path);
    ASSERT_TRUE(abandoned.ok());
    ASSERT_TRUE(abandoned->Write("half").ok());
    EXPECT_EQ(dir.n_entries(), 2);
  }
  EXPECT_EQ(dir.n_entries(), 1) << "a temporary file is left";
  auto file = AtomicFile::Create(path);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(file->Write("one").ok());
  AtomicFile moved = std::move(*file);
  ASSERT_TRUE(moved.Write(" two").ok());
  EXPECT_EQ(*ReadFile(path, 100), "old");
  ASSERT_TRUE(moved.Commit().ok());
  EXPECT_EQ(*ReadFile(path, 100), "one two");
  EXPECT_EQ(dir.n_entries(), 1);
}

TEST(AtomicFile, AMovedOneGoesToItsOwnPlace) {
  const TempDir dir;
  AtomicFile file = AtomicFile::Create(dir.file("a")).value();
  file = AtomicFile::Create(dir.file("b")).value();
  ASSERT_TRUE(file.Write("text").ok());
  ASSERT_TRUE(file.Commit().ok());
  EXPECT_EQ(*ReadFile(dir.file("b"), 100), "text");
  EXPECT_EQ(dir.n_entries(), 1);
}

TEST(AtomicFile, AnErrorLeavesTheOldFileAndNothingElse) {
  const TempDir dir;
  const std::string path = dir.file("out");
  dir.Write("out", "old");
  auto file = AtomicFile::Create(path);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(file->Write("begin").ok());
  // A limit on file sizes simulates a full disk. Without a handler the signal would end the program.
  struct rlimit old_limit {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit small = {.rlim_cur = 8, .rlim_max = old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status full = file->Write("more than fits");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(full.code(), StatusCode::kIo);
  EXPECT_EQ(full.message().rfind(path + ": cannot be written: ", 0), 0u) << full.message();
  EXPECT_EQ(dir.n_entries(), 1);
  EXPECT_EQ(*ReadFile(path, 100), "old");
  EXPECT_DEATH((void)file->Commit(), "has failed or is finished");
}

}  // namespace
}  // namespace duo
