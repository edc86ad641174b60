#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/align.h"
#include "base/atomic_file.h"
#include "base/bf16.h"
#include "base/buffer.h"
#include "base/check.h"
#include "base/directory_lock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/fnv1a.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "base/memory_info.h"
#include "base/rng.h"
#include "base/temp_dir_for_test.h"
#include "base/text.h"
#include "duo/result.h"

namespace duo {
namespace {

TEST(Result, CarriesValueOrSentence) {
  Result<int> good = 7;
  EXPECT_TRUE(good.ok());
  EXPECT_EQ(*good, 7);
  Result<int> bad = Status(StatusCode::kCorrupt, "x.json: broken");
  EXPECT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().Annotate("loading").message(), "loading: x.json: broken");
  EXPECT_EQ(bad.status().subject(), "");
  const Status about = bad.status().About("sink").Annotate("pattern");
  EXPECT_EQ(about.subject(), "sink") << "a prefix changes only the sentence";
  EXPECT_EQ(about.message(), "pattern: x.json: broken");
  EXPECT_EQ(about.code(), bad.status().code());
  EXPECT_TRUE(OkStatus().About("sink").ok());
  EXPECT_EQ(OkStatus().About("sink").subject(), "");
  EXPECT_STREQ(StatusCodeName(StatusCode::kUnavailable), "unavailable");
  EXPECT_DEATH((void)bad.value(), "x.json: broken");
}

TEST(Error, CarriesItsCodeAndTheFormattedSentence) {
  const std::string path = "a {} b";
  const Status status = Corrupt("{}: {} tensors, expected {:.1f}", path, 3, 4.0);
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(status.message(), "a {} b: 3 tensors, expected 4.0");
  EXPECT_EQ(InvalidArgument("a").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(NotFound("a").code(), StatusCode::kNotFound);
  EXPECT_EQ(Unsupported("a").code(), StatusCode::kUnsupported);
  EXPECT_EQ(ResourceExhausted("a").code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(IoError("a").code(), StatusCode::kIo);
  EXPECT_EQ(UnavailableError("a").code(), StatusCode::kUnavailable);
  EXPECT_EQ(Internal("a").code(), StatusCode::kInternal);
  EXPECT_EQ(Cancelled().code(), StatusCode::kCancelled);
}

TEST(Error, ABadOptionIsTheSubjectOfItsError) {
  for (const Status& status : {BadOption("sink", -1, "0 or more"), BadOption("sink", "-1", "0 or more")}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.subject(), "sink");
    EXPECT_EQ(status.message(), "sink is -1; expected 0 or more");
  }
}

TEST(Text, IsTrimmedOfBlanksAtBothEnds) {
  EXPECT_EQ(Trim(" \ta b\t ", " \t"), "a b");
  EXPECT_EQ(Trim("a", " "), "a");
  EXPECT_EQ(Trim("  ", " "), "");
  EXPECT_EQ(Trim("", " "), "");
}

TEST(Bf16, RoundsToNearestEvenAndKeepsSpecials) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bf16 b{static_cast<uint16_t>(bits)};
    const float f = ToFloat(b);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToBf16(f))));
    } else {
      EXPECT_EQ(ToBf16(f).bits, bits);
    }
  }
  EXPECT_EQ(ToBf16(1.0f + 0x1p-8f).bits, ToBf16(1.0f).bits) << "a tie goes to the even mantissa";
  EXPECT_EQ(ToBf16(1.0f + 0x3p-8f).bits, ToBf16(1.0f + 0x1p-6f).bits);
  EXPECT_TRUE(std::isinf(ToFloat(ToBf16(std::numeric_limits<float>::max()))));
}

TEST(F16, EveryValueIsExact) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    const float f = ToFloat(f16{static_cast<uint16_t>(bits)});
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(f), mantissa != 0);
    } else if (exponent == 0) {
      EXPECT_EQ(f, sign * std::ldexp(mantissa, -24));
    } else {
      EXPECT_EQ(f, sign * std::ldexp(1024.0 + mantissa, static_cast<int>(exponent) - 25));
    }
  }
}

TEST(Buffer, RefusesAbsurdSizesWithASentence) {
  auto b = Buffer::Allocate(size_t{1} << 60);
  ASSERT_FALSE(b.ok());
  EXPECT_EQ(b.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(b.status().message().find("1152921504606846976"), std::string::npos);
}

TEST(VirtualBuffer, TakesAsManyAddressesAsItHolds) {
  const auto pages_of_addresses = [] { return std::stoul(*ReadFile("/proc/self/statm", 1000)); };
  constexpr size_t kBytes = size_t{8} << 20, kMany = 50;
  const size_t before = pages_of_addresses();
  {
    std::vector<VirtualBuffer> buffers;
    for (size_t i = 0; i < kMany; ++i) buffers.push_back(VirtualBuffer::Reserve(kBytes).value());
    EXPECT_GE(pages_of_addresses(), before + kMany * kBytes / kPageBytes);
    EXPECT_LT(pages_of_addresses(), before + (kMany + 2) * kBytes / kPageBytes) << "the surplus is freed";
  }
  EXPECT_LT(pages_of_addresses(), before + 2 * kBytes / kPageBytes);
}

TEST(VirtualBuffer, GrowsInPlace) {
  auto reserved = VirtualBuffer::Reserve(size_t{64} << 20);
  ASSERT_TRUE(reserved.ok());
  VirtualBuffer buffer = std::move(*reserved);
  ASSERT_TRUE(buffer.Commit(0, 5000).ok());
  uint8_t* before = buffer.data();
  std::memset(before, 7, 5000);
  ASSERT_TRUE(buffer.Commit(5000, size_t{40} << 20).ok());
  EXPECT_EQ(buffer.data(), before);
  EXPECT_EQ(buffer.data()[4999], 7);
  EXPECT_EQ(buffer.data()[size_t{30} << 20], 0) << "fresh pages read as zero";
  EXPECT_EQ(reinterpret_cast<uintptr_t>(before) % (size_t{2} << 20), 0u);
}

TEST(Rng, IsTheSameEverywhere) {
  Rng rng(42);
  EXPECT_EQ(rng.Next(), 0xbdd732262feb6e95ull);
  double sum = 0, squares = 0;
  for (int i = 0; i < 100000; ++i) {
    const double x = rng.Normal();
    sum += x;
    squares += x * x;
    ASSERT_LT(rng.Below(7), 7u);
  }
  EXPECT_NEAR(sum / 1e5, 0, 0.02);
  EXPECT_NEAR(squares / 1e5, 1, 0.02);
}

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

TEST(MemoryBudget, IsTheLimitOrWhatIsFreeBesideMappedFiles) {
  EXPECT_EQ(MemoryBudget(5, 1000, 100), 5u);
  EXPECT_EQ(MemoryBudget(0, 1000, 100), 900u);
  EXPECT_EQ(MemoryBudget(0, 1000, 2000), 0u);
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

TEST(Json, LinesMembersAndDifferences) {
  std::vector<int> seen;
  const auto line = [&](const Json& value, const std::string& where) {
    seen.push_back(value.get<int>());
    return seen.size() < 3 ? OkStatus() : Status(StatusCode::kCorrupt, where + ": enough");
  };
  EXPECT_TRUE(ForEachJsonLine("1\n\n \r\n2", "f", line).ok());
  EXPECT_EQ(seen, (std::vector<int>{1, 2}));
  EXPECT_EQ(ForEachJsonLine("3\n4\n", "f", line).message(), "f: line 1: enough");
  EXPECT_EQ(ForEachJsonLine("\nx\n", "f", line).message().rfind("f: line 2", 0), 0u);
  const Json object = {{"a", 1}};
  EXPECT_EQ(**JsonMember(object, "a", "w"), 1);
  EXPECT_EQ(JsonMember(object, "b", "w").status().message(), "w: b: missing");
  EXPECT_EQ(JsonMember(Json(3), "b", "w").status().message(), "w: b: missing");
  EXPECT_EQ(JsonDifference(object, object), "");
  EXPECT_EQ(JsonDifference(object, {{"a", 2}}), "a 1, not 2");
  EXPECT_EQ(JsonDifference(object, {{"b", 2}}), "b missing, not 2");
  EXPECT_EQ(JsonText({{"a", "\xff"}}), "{\"a\":\"\uFFFD\"}");
}

TEST(Json, ValuesAndWhatStandsForThem) {
  const Json o = Json::parse(R"({"n":3,"half":0.5,"text":"x","yes":true,"no":false,"null":null})");
  EXPECT_EQ(*JsonNumber(o, "n", "w"), 3);
  EXPECT_EQ(*JsonNumber(o, "half", "w"), 0.5);
  for (const char* key : {"text", "null", "none"}) EXPECT_FALSE(JsonNumber(o, key, "w").ok()) << key;
  EXPECT_EQ(*JsonNumberOr(o, "half", 7, "w"), 0.5);
  EXPECT_FALSE(JsonNumberOr(o, "text", 7, "w").ok());
  EXPECT_EQ(*JsonIntOr(o, "n", 7, "w"), 3);
  EXPECT_FALSE(JsonIntOr(o, "half", 7, "w").ok());
  EXPECT_EQ(*JsonString(o, "text", "w"), "x");
  EXPECT_FALSE(JsonString(o, "n", "w").ok());
  EXPECT_EQ(*JsonStringOr(o, "text", "y", "w"), "x");
  EXPECT_FALSE(JsonStringOr(o, "n", "y", "w").ok());
  EXPECT_TRUE(*JsonBoolOr(o, "yes", false, "w"));
  EXPECT_FALSE(*JsonBoolOr(o, "no", true, "w"));
  EXPECT_EQ(JsonBoolOr(o, "n", true, "w").status().message(), "w: n: expected true or false, found number 3");
  for (const char* key : {"null", "none"}) {
    EXPECT_EQ(*JsonNumberOr(o, key, 7, "w"), 7) << key;
    EXPECT_EQ(*JsonIntOr(o, key, 7, "w"), 7) << key;
    EXPECT_EQ(*JsonStringOr(o, key, "y", "w"), "y") << key;
    EXPECT_TRUE(*JsonBoolOr(o, key, true, "w")) << key;
  }
}

TEST(Fnv1a, KnownValues) {
  Fnv1a hash;
  EXPECT_EQ(hash.Text(), "cbf29ce484222325");
  hash.Add("a", 1);
  EXPECT_EQ(hash.Text(), "af63dc4c8601ec8c");
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

TEST(Json, ErrorsNameFileAndKey) {
  auto bad = ParseJson("{\"a\": }", "dir/config.json");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().message().rfind("dir/config.json: not valid JSON", 0), 0u);
  auto json =
      ParseJson(R"({"n": 3, "f": 8192.0, "h": 0.5, "s": "x", "z": null, "big": 18446744073709551615})", "c.json");
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(*JsonInt(*json, "n", "c.json"), 3);
  EXPECT_EQ(*JsonInt(*json, "f", "c.json"), 8192);
  EXPECT_EQ(*JsonIntOr(*json, "z", 5, "c.json"), 5);
  EXPECT_FALSE(JsonInt(*json, "h", "c.json").ok());
  EXPECT_FALSE(JsonInt(*json, "big", "c.json").ok());
  EXPECT_EQ(JsonInt(*json, "s", "c.json").status().message(), "c.json: s: expected a whole number, found string \"x\"");
  EXPECT_EQ(JsonString(*json, "none", "c.json").status().message(), "c.json: none: expected a string, found nothing");
  // Messages never contain the JSON library's exception names.
  for (const char* text : {"{\"a\": }", "[1e999]", "\"\\ud800\"", "\"\xff\"", ""}) {
    const std::string message = ParseJson(text, "f").status().message();
    EXPECT_EQ(message.rfind("f: not valid JSON: ", 0), 0u) << message;
    EXPECT_EQ(message.find("json.exception"), std::string::npos) << message;
  }
  EXPECT_FALSE(ParseJson(std::string(100000, '['), "deep").ok());
}

}  // namespace
}  // namespace duo
