#include "base/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <string>

#include "base/atomic_file.h"
#include "base/file.h"
#include "base/memory_info.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

TEST(MappedFile, PipesAndUnwantedLinksAreRefused) {
  const TempDir dir;
  const std::string pipe = dir.file("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(MappedFile::Open(pipe).status().code(), StatusCode::kInvalidArgument) << "must not wait for a writer";
  dir.Write("file", "text");
  std::filesystem::create_symlink(dir.file("file"), dir.file("link"));
  EXPECT_TRUE(MappedFile::Open(dir.file("link")).ok());
  EXPECT_EQ(MappedFile::Open(dir.file("link"), Links::kRefuse).status().code(), StatusCode::kIo);
  EXPECT_EQ(PlainFileBytes(dir.file("file")), 4u);
  for (const char* name : {"link", "pipe", "none"}) EXPECT_EQ(PlainFileBytes(dir.file(name)), std::nullopt) << name;
}

TEST(MappedFile, WhatIsForgottenIsNotResidentAndCanBeReadAgain) {
  const TempDir dir;
  const std::string path = dir.path() + "/large";
  constexpr size_t kBytes = size_t{32} << 20;
  ASSERT_TRUE(WriteFileAtomic(path, std::string(kBytes, 'x')).ok());
  const auto mapped = MappedFile::Open(path);
  ASSERT_TRUE(mapped.ok());
  const auto sum = [&] { return std::accumulate(mapped->data(), mapped->data() + kBytes, uint64_t{0}); };
  EXPECT_EQ(sum(), kBytes * 'x');
  const uint64_t resident = CurrentRssBytes();
  EXPECT_TRUE(mapped->Forget(mapped->data() + 100, kBytes - 200));
  EXPECT_LT(CurrentRssBytes(), resident - kBytes / 2);
  EXPECT_EQ(sum(), kBytes * 'x');
  EXPECT_FALSE(mapped->Forget(mapped->data() + 1, kBytes));
  EXPECT_FALSE(mapped->Forget(path.data(), 1));
}

TEST(MappedFile, AMovedOneIsTheOther) {
  const TempDir dir;
  dir.Write("a", "first");
  dir.Write("b", "the second");
  MappedFile file = MappedFile::Open(dir.file("a")).value();
  file = MappedFile::Open(dir.file("b")).value();
  EXPECT_EQ(file.path(), dir.file("b"));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.data()), file.size()), "the second");
  EXPECT_EQ(file.Change(), FileChange::kNone);
}

TEST(MappedFile, TellsWhatBecameOfItsFile) {
  const TempDir dir;
  const std::string path = dir.file("mapped");
  ASSERT_TRUE(WriteFileAtomic(path, "hello").ok());
  MappedFile opened = MappedFile::Open(path).value();
  const MappedFile mapped = std::move(opened);
  EXPECT_EQ(mapped.path(), path);
  EXPECT_EQ(mapped.Change(), FileChange::kNone);
  const auto write = [&](const char* mode, const char* text) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), mode), std::fclose);
    ASSERT_EQ(std::fputs(text, file.get()) < 0, false);
  };
  write("ab", "!");
  EXPECT_EQ(mapped.Change(), FileChange::kWritten);
  const MappedFile longer = MappedFile::Open(path).value();
  EXPECT_EQ(longer.Change(), FileChange::kNone);
  write("wb", "");
  EXPECT_EQ(longer.Change(), FileChange::kWritten) << "cut";
  ASSERT_TRUE(WriteFileAtomic(path, "other").ok());
  EXPECT_EQ(mapped.Change(), FileChange::kReplaced);
  ASSERT_EQ(std::remove(path.c_str()), 0);
  EXPECT_EQ(mapped.Change(), FileChange::kGone);
}

}  // namespace
}  // namespace duo
