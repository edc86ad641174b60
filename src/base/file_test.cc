#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/directory_lock.h"
#include "base/file.h"
#include "base/mapped_file.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

TEST(File, WritesAtomicallyAndReadsUnderALimit) {
  const TempDir dir;
  const std::string path = dir.file("file");
  ASSERT_TRUE(WriteFileAtomic(path, "hello").ok());
  EXPECT_EQ(*ReadFile(path, 5), "hello");
  auto too_large = ReadFile(path, 4);
  EXPECT_EQ(too_large.status().code(), StatusCode::kCorrupt);
  EXPECT_NE(too_large.status().message().find(path), std::string::npos);
  EXPECT_EQ(WriteFileAtomic("/nonexistent/dir/x", "y").code(), StatusCode::kIo);
  EXPECT_EQ(WriteFileAtomic("/dev/null", "y").code(), StatusCode::kIo);
  EXPECT_EQ(WriteFileAtomic("/tmp", "y").code(), StatusCode::kIo);
  EXPECT_EQ(ReadFile(path + ".none", 4).status().code(), StatusCode::kNotFound);
  auto mapped = MappedFile::Open(path);
  ASSERT_TRUE(mapped.ok());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(mapped->data()), mapped->size()), "hello");
  EXPECT_FALSE(MappedFile::Open("/tmp").ok());
}

TEST(File, ALinkToNothingIsThereAndSaysWhereItPoints) {
  const TempDir dir;
  const std::string path = dir.file("model.safetensors");
  std::filesystem::create_symlink("../../blobs/abc", path);
  EXPECT_TRUE(FileExists(path)) << "a reader must not silently take another file instead";
  const std::string sentence = path + ": is a link to ../../blobs/abc, which does not exist; download the file again";
  for (const Status& status : {ReadFile(path, 100).status(), MappedFile::Open(path).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kNotFound);
    EXPECT_EQ(status.message(), sentence);
  }
  std::filesystem::create_directory(dir.file("folder"));
  std::filesystem::create_symlink("folder", dir.file("link"));
  EXPECT_FALSE(FileExists(dir.file("link")));
  EXPECT_FALSE(FileExists(dir.file("none")));
  EXPECT_NE(ReadFile(dir.file("none"), 1).status().message().find("cannot be opened"), std::string::npos);
}

TEST(File, AnLfsPointerIsNotTheFile) {
  const TempDir dir;
  const std::string path = dir.file("weights");
  dir.Write("weights", kLfsPointerForTest);
  for (const Status& status : {ReadFile(path, 1000).status(), MappedFile::Open(path).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kCorrupt);
    EXPECT_EQ(status.message().rfind(path + ": is a git-lfs pointer", 0), 0u) << status.message();
  }
  dir.Write("weights", kLfsPointerForTest + std::string(1024, '\n'));  // longer than a pointer may be
  EXPECT_TRUE(ReadFile(path, 10000).ok());
  EXPECT_TRUE(MappedFile::Open(path).ok());
}

TEST(DirectoryLock, IsHeldOnce) {
  const TempDir dir;
  {
    Result<DirectoryLock> first = DirectoryLock::Take(dir.path());
    ASSERT_TRUE(first.ok());
    const DirectoryLock moved = std::move(*first);
    EXPECT_EQ(DirectoryLock::Take(dir.path()).status().code(), StatusCode::kUnavailable);
  }
  EXPECT_TRUE(DirectoryLock::Take(dir.path()).ok());
  EXPECT_EQ(dir.n_entries(), 0);
  EXPECT_EQ(DirectoryLock::Take(dir.path() + "/none").status().code(), StatusCode::kIo);
}

}  // namespace
}  // namespace duo
