#include "text/haystack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <string>

#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

using testing::HasSubstr;

std::string Compressed(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

TEST(Haystack, ReadsFilesFoldersAndJsonLines) {
  const TempDir dir;
  const std::string lines = "{\"text\": \"one\\nline\"}\n\n{\"text\": \"two\", \"id\": 7}";
  dir.Write("b.jsonl", lines);
  dir.Write("c.jsonl.zst", Compressed(lines));
  dir.Write("a.txt", "plain");
  dir.Write("ignored.bin", "x");
  EXPECT_EQ(LoadHaystack(dir.path() + "/a.txt")->text, "plain");
  EXPECT_EQ(LoadHaystack(dir.path() + "/b.jsonl")->text, "one\nline\n\ntwo");
  EXPECT_EQ(LoadHaystack(dir.path() + "/c.jsonl.zst")->text, "one\nline\n\ntwo");
  const Haystack all = LoadHaystack(dir.path()).value();
  EXPECT_EQ(all.text, "plain\n\none\nline\n\ntwo\n\none\nline\n\ntwo");
  EXPECT_FALSE(all.truncated);
  const Haystack some = LoadHaystack(dir.path(), 12).value();
  EXPECT_EQ(some.text, "plain\n\none\nl");
  EXPECT_TRUE(some.truncated);
}

TEST(Haystack, NothingFillsTheMemory) {
  std::string empty;
  for (int i = 0; i < 20000; ++i) empty += "{\"text\":\"\"}\n";
  EXPECT_EQ(ParseHaystack(empty, "a.jsonl", 1 << 20)->text, "");
  EXPECT_THAT(ParseHaystack(Compressed(empty), "a.jsonl.zst", 1000).status().message(), HasSubstr("bytes of JSON"));
  const Haystack cut = ParseHaystack("{\"text\":\"ab\"}\n{\"text\":\"cd\"}\n", "a.jsonl", 3).value();
  EXPECT_EQ(cut.text, "ab\n");
  EXPECT_TRUE(cut.truncated);
}

TEST(Haystack, LongLinesAndManyFramesComeWhole) {
  const TempDir dir;
  const std::string word(300000, 'w');
  const std::string line = "{\"text\": \"" + word + "\"}\n";
  dir.Write("a.jsonl.zst", Compressed(line) + Compressed(line));
  EXPECT_EQ(LoadHaystack(dir.path() + "/a.jsonl.zst")->text, word + "\n\n" + word);
}

TEST(Haystack, BadSourcesAreSentences) {
  const TempDir dir;
  const auto failure = [&](const std::string& name, const std::string& content) {
    dir.Write(name, content);
    const Result<Haystack> loaded = LoadHaystack(dir.path() + "/" + name);
    return loaded.ok() ? std::string() : loaded.status().message();
  };
  EXPECT_THAT(failure("a.jsonl", "{\"text\": \"x\"}\n{\"body\": 1}\n"), HasSubstr("a.jsonl: line 2: text"));
  EXPECT_THAT(failure("b.jsonl", "not json\n"), HasSubstr("b.jsonl: line 1"));
  EXPECT_THAT(failure("c.jsonl.zst", "not zstd at all"), HasSubstr("not zstd data"));
  const std::string whole = Compressed("{\"text\": \"" + std::string(1000, 'x') + "\"}\n");
  EXPECT_THAT(failure("d.jsonl.zst", whole.substr(0, whole.size() - 3)), HasSubstr("ends early"));
  EXPECT_EQ(LoadHaystack(dir.path() + "/none").status().code(), StatusCode::kNotFound);
  const TempDir empty;
  EXPECT_THAT(LoadHaystack(empty.path()).status().message(), HasSubstr("has no *.txt"));
}

}  // namespace
}  // namespace duo
