// Tests of tokenizers made from a few lines of JSON: bad input, incremental decoding, long texts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/data_for_test.h"
#include "base/file.h"
#include "base/json.h"
#include "base/temp_dir_for_test.h"
#include "duo/tokenizer.h"
#include "text/added_tokens.h"
#include "text/bpe_merge.h"
#include "text/limits.h"
#include "text/tokenizer_for_test.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace duo {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr char kMinimal[] = R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"<s>":3,"\u0120":4},
  "merges":["a b"]},"added_tokens":[{"id":3,"content":"<s>","special":true}],
  "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"}})";

Json Minimal() { return Json::parse(kMinimal); }

Status Failure(const std::string& text) {
  const auto parsed = ParseTokenizerJson(text, "dir/tokenizer.json", {});
  return parsed.ok() ? OkStatus() : parsed.status();
}
Status Failure(const Json& json) { return Failure(json.dump()); }

struct BadCase {
  const char* pointer;  // JSON pointer into the minimal file
  const char* value;    // the value to put there
  StatusCode code;
  const char* names;  // text that the error must contain
};

TEST(TokenizerJson, NamesTheKeyOfEveryMistake) {
  const BadCase cases[] = {
      {"/model", "null", StatusCode::kCorrupt, "model: expected an object, found nothing"},
      {"/model/type", "\"Unigram\"", StatusCode::kUnsupported, "model: model \"Unigram\" is not supported"},
      {"/model/type", "7", StatusCode::kCorrupt, "model: type"},
      {"/model/vocab", "[1]", StatusCode::kCorrupt, "model: vocab: expected an object, found array"},
      {"/model/vocab", "{}", StatusCode::kCorrupt, "model: vocab: expected tokens, found none"},
      {"/model/vocab/a", "-1", StatusCode::kCorrupt, "vocab: \"a\": id -1"},
      {"/model/vocab/a", "99999999999", StatusCode::kCorrupt, "vocab: \"a\": id 99999999999"},
      {"/model/vocab/a", "18446744073709551615", StatusCode::kCorrupt, "vocab: \"a\": id"},
      {"/model/vocab/a", "\"x\"", StatusCode::kCorrupt, "vocab: \"a\": expected an id, found string"},
      {"/model/vocab/a", "1", StatusCode::kCorrupt, "id 1 already belongs to \"a\""},
      {"/model/merges", "{}", StatusCode::kCorrupt, "model: merges: expected an array, found object"},
      {"/model/merges/0", "\"ab\"", StatusCode::kCorrupt, "merges[0]: expected two tokens and one space"},
      {"/model/merges/0", "\"a b c\"", StatusCode::kCorrupt, "merges[0]: expected two tokens and one space"},
      {"/model/merges/0", "\"a x\"", StatusCode::kCorrupt, "merges[0]: token \"x\" is not in the vocabulary"},
      {"/model/merges/0", "\"b a\"", StatusCode::kCorrupt, "merges[0]: token \"ba\" is not in the vocabulary"},
      {"/model/merges/0", "[\"a\"]", StatusCode::kCorrupt, "merges[0]: expected two tokens, found array"},
      {"/model/merges/0", "1", StatusCode::kCorrupt, "merges[0]: expected two tokens, found number"},
      {"/model/dropout", "0.5", StatusCode::kUnsupported, "model: dropout: 0.5"},
      {"/model/end_of_word_suffix", "\"</w>\"", StatusCode::kUnsupported, "end_of_word_suffix"},
      {"/model/byte_fallback", "\"yes\"", StatusCode::kCorrupt, "byte_fallback"},
      {"/model/unk_token", "\"?\"", StatusCode::kCorrupt, "unk_token: \"?\" is not in the vocabulary"},
      {"/added_tokens", "{}", StatusCode::kCorrupt, "added_tokens: expected an array"},
      {"/added_tokens/0", "1", StatusCode::kCorrupt, "added_tokens[0]: id"},
      {"/added_tokens/0/id", "2", StatusCode::kCorrupt, "added_tokens[0]: \"<s>\" has id 2 here and 3"},
      {"/added_tokens/0/content", "\"<x>\"", StatusCode::kCorrupt, "added_tokens[0]: \"<x>\": id 3 belongs to \"<s>\""},
      {"/added_tokens/0/special", "3", StatusCode::kCorrupt, "added_tokens[0]: special"},
      {"/normalizer", "{\"type\":\"Precompiled\"}", StatusCode::kUnsupported, "normalizer \"Precompiled\""},
      {"/normalizer", "{\"type\":\"Sequence\"}", StatusCode::kCorrupt, "normalizer: normalizers: expected an array"},
      {"/normalizer", "[]", StatusCode::kCorrupt, "normalizer: type"},
      {"/normalizer", R"({"type":"Replace","pattern":{"X":1},"content":""})", StatusCode::kCorrupt, "pattern: String"},
      {"/pre_tokenizer", "{\"type\":\"Whitespace\"}", StatusCode::kUnsupported, "pre-tokeniser \"Whitespace\""},
      {"/pre_tokenizer", R"({"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"})", StatusCode::kUnsupported,
       "pre_tokenizer: pattern: regex (: missing closing parenthesis"},
      {"/pre_tokenizer", R"({"type":"Split","pattern":{"String":"x"},"behavior":"Odd"})", StatusCode::kUnsupported,
       "Split behavior \"Odd\""},
      {"/pre_tokenizer", R"({"type":"Metaspace","replacement":"xy"})", StatusCode::kCorrupt,
       "replacement: expected one"},
      {"/pre_tokenizer", R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]})",
       StatusCode::kUnsupported, "Digits after ByteLevel"},
      {"/decoder", "{\"type\":\"WordPiece\"}", StatusCode::kUnsupported, "decoder \"WordPiece\""},
      {"/decoder", R"({"type":"Strip","content":"ab","start":1,"stop":0})", StatusCode::kCorrupt, "decoder: content"},
      {"/decoder", R"({"type":"Strip","content":"a","start":-1,"stop":0})", StatusCode::kCorrupt, "Strip of -1"},
      {"/decoder", R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]})",
       StatusCode::kUnsupported, "ByteFallback after Fuse"},
      {"/post_processor", "{\"type\":\"BertProcessing\"}", StatusCode::kUnsupported,
       "post-processor \"BertProcessing\""},
      {"/post_processor", R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"q"}}],"special_tokens":{}})",
       StatusCode::kCorrupt, "special_tokens: expected \"q\""},
      {"/post_processor", R"({"type":"TemplateProcessing","single":[],"special_tokens":{}})", StatusCode::kUnsupported,
       "contains the text 0 times"},
      {"/post_processor",
       R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"q"}},{"Sequence":{"id":"A"}}],
           "special_tokens":{"q":{"ids":[77]}}})",
       StatusCode::kCorrupt, "id 77 is not in the vocabulary"},
  };
  ASSERT_TRUE(Failure(Minimal()).ok());
  for (const BadCase& bad : cases) {
    Json json = Minimal();
    json[Json::json_pointer(bad.pointer)] = Json::parse(bad.value);
    const Status status = Failure(json);
    EXPECT_EQ(status.code(), bad.code) << bad.pointer << " " << bad.value << ": " << status.message();
    EXPECT_THAT(status.message(), AllOf(StartsWith("dir/tokenizer.json: "), HasSubstr(bad.names)));
  }
}

TEST(TokenizerJson, EveryTruncationIsAnError) {
  const std::string whole = StyleFile("llama3", "tokenizer.json");
  for (size_t n = 0; n + 2 < whole.size(); n += 97) {
    const Status status = Failure(whole.substr(0, n));
    ASSERT_EQ(status.code(), StatusCode::kCorrupt) << n;
    ASSERT_THAT(status.message(), StartsWith("dir/tokenizer.json: "));
  }
}

TEST(TokenizerJson, RefusesStepsThatWouldBlowATextUp) {
  Json step = Json::parse(R"({"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaa"})");
  Json json = Minimal();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array({step, step, step, step})}};
  EXPECT_EQ(Failure(json).code(), StatusCode::kUnsupported);
  json["normalizer"]["normalizers"] = Json::array();
  for (int i = 0; i < 100; ++i) json["normalizer"]["normalizers"].push_back({{"type", "NFC"}});
  EXPECT_THAT(Failure(json).message(), HasSubstr("more than 64 steps"));
}

TEST(TokenizerOpen, SaysWhatIsMissingOrBroken) {
  TempDir dir;
  EXPECT_EQ(Tokenizer::Open(dir.path()).status().code(), StatusCode::kNotFound);
  EXPECT_THAT(Tokenizer::Open(dir.path()).status().message(), HasSubstr("tokenizer.json or tokenizer.model"));
  dir.Write("tokenizer.json", kMinimal);
  EXPECT_TRUE(Tokenizer::Open(dir.path()).ok());
  dir.Write("tokenizer_config.json", R"({"bos_token": "<none>"})");
  EXPECT_THAT(Tokenizer::Open(dir.path()).status().message(),
              HasSubstr("tokenizer_config.json: bos_token: \"<none>\" is not in the tokenizer's vocabulary"));
  dir.Write("tokenizer_config.json", R"({"bos_token": 5})");
  EXPECT_THAT(Tokenizer::Open(dir.path()).status().message(), HasSubstr("bos_token"));
  dir.Write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {}}})");
  EXPECT_THAT(Tokenizer::Open(dir.path()).status().message(), HasSubstr("added_tokens_decoder: \"x\""));
  dir.Write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "chat_template": [{"name": "tools",
      "template": "T"}, {"name": "default", "template": "D"}]})");
  Result<Tokenizer> opened = Tokenizer::Open(dir.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ(opened->bos_id(), 3);
  EXPECT_EQ(opened->eos_id(), -1);
  EXPECT_EQ(opened->chat_template(), "D");
  EXPECT_TRUE(opened->IsSpecial(3));
  EXPECT_FALSE(opened->IsSpecial(0));
  EXPECT_EQ(opened->TokenId("ab"), 2);
  EXPECT_EQ(opened->TokenId("zz"), -1);
  EXPECT_EQ(opened->vocab_size(), 5);
  dir.Write("chat_template.jinja", "J");
  EXPECT_EQ(Tokenizer::Open(dir.path())->chat_template(), "J");
}

// Joins the texts of the pieces with "|" and gives tokens their ids. If the reference (tokenizers 0.23.3) returns
// pieces, the expected ones are its own. It panics if part of a token was already taken.
std::string Pieces(const AddedTokenFinder& finder, std::string_view text) {
  std::string pieces;
  for (const auto& piece : finder.Split(text, false)) {
    pieces += std::string(piece.text) + (piece.id < 0 ? "" : "#" + std::to_string(piece.id)) + "|";
  }
  return pieces;
}

TEST(AddedTokens, WhiteSpaceIsTakenOnce) {
  AddedToken left;
  left.content = "<a>";
  left.id = 7;
  left.rstrip = true;
  AddedToken newline;
  newline.content = "\n";
  newline.id = 8;
  newline.lstrip = true;
  AddedTokenFinder finder;
  ASSERT_TRUE(finder.Add(left, left.content, "t").ok());
  ASSERT_TRUE(finder.Add(newline, newline.content, "t").ok());
  EXPECT_EQ(Pieces(finder, "x<a>\ny"), "x|<a>\n#7|y|");
  EXPECT_EQ(Pieces(finder, "x<a>  \n"), "x|<a>  \n#7|");
  EXPECT_EQ(Pieces(finder, "<a>\n<a>"), "<a>\n#7|<a>#7|");
  EXPECT_EQ(Pieces(finder, "x<a> \n y"), "x|<a> \n #7|y|");
  EXPECT_EQ(Pieces(finder, "x<a>\n\n y"), "x|<a>\n\n #7|y|");
  EXPECT_EQ(Pieces(finder, "x \ny"), "x| \n#8|y|");

  newline.rstrip = true;
  AddedTokenFinder both_ways;
  ASSERT_TRUE(both_ways.Add(left, left.content, "t").ok());
  ASSERT_TRUE(both_ways.Add(newline, newline.content, "t").ok());
  EXPECT_EQ(Pieces(both_ways, "x<a> \n y"), "x|<a> \n #7|y|");
  EXPECT_EQ(Pieces(both_ways, "x<a>\n\n"), "x|<a>\n\n#7|");

  newline.lstrip = newline.rstrip = false;  // as in the reference, the token is then read a second time
  AddedTokenFinder plain;
  ASSERT_TRUE(plain.Add(left, left.content, "t").ok());
  ASSERT_TRUE(plain.Add(newline, newline.content, "t").ok());
  EXPECT_EQ(Pieces(plain, "x<a> \n y"), "x|<a> \n #7|\n#8| y|");
}

TEST(AddedTokens, SearchNodesAreBounded) {
  AddedTokenFinder finder;
  AddedToken token;
  token.id = 1;
  const Status too_long =
      finder.Add(token, std::string(text_limits::kMaxAddedTokenBytes + 1, 'a'), "f: added_tokens[3]");
  EXPECT_EQ(too_long.code(), StatusCode::kUnsupported);
  EXPECT_THAT(too_long.message(), StartsWith("f: added_tokens[3]: a token of 1025 bytes"));
  AddedTokenFinder full;
  Status status;
  size_t n = 0;
  for (; status.ok(); ++n) status = full.Add(token, std::string(text_limits::kMaxAddedTokenBytes, 'a'), "f");
  EXPECT_EQ(n, text_limits::kMaxAddedTokenTotalBytes / text_limits::kMaxAddedTokenBytes + 1);
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
}

TEST(TokenizerJson, ANormalizerCannotMakeAnAddedTokenEndless) {
  Json json = Minimal();
  json["normalizer"] = Json::parse(R"({"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaaaaaaaaa"})");
  json["added_tokens"].push_back({{"id", 5}, {"content", std::string(500, 'a')}, {"normalized", true}});
  const Status failure = Failure(json);
  EXPECT_EQ(failure.code(), StatusCode::kUnsupported);
  EXPECT_THAT(failure.message(), StartsWith("dir/tokenizer.json: added_tokens[1]: a token of 8000 bytes"));
}

TEST(DemoTokenizer, GivesTheReferencesIds) {
  Result<Tokenizer> opened = Tokenizer::Open(SourceDir() + "/models/demo");
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const std::string first = "The secret code of the lighthouse is 48213.";
  const std::string second = "  Hello,\n\nwörld 😀 <|end_of_text|>x";
  EXPECT_THAT(opened->Encode(first), ElementsAre(1022, 282, 298, 300, 267, 258, 220, 320, 70, 71, 361, 78, 84, 858, 271,
                                                 220, 19, 23, 17, 16, 18, 13));
  EXPECT_THAT(opened->Encode(second), ElementsAre(1022, 220, 601, 375, 75, 78, 11, 289, 86, 127, 114, 81, 75, 67, 220,
                                                  172, 253, 246, 222, 220, 1023, 87));
  EXPECT_EQ(opened->Decode(opened->Encode(second), SpecialTokens::kAdd), "<|begin_of_text|>" + second);
  EXPECT_EQ(opened->bos_id(), 1022);
  EXPECT_EQ(opened->eos_id(), 1023);
  EXPECT_EQ(ChatTemplate::Recognise(*opened).status().code(), StatusCode::kUnsupported);
}

TEST(StreamDecoder, HoldsBackHalfACharacter) {
  for (const char* style : {"qwen2", "sentencepiece"}) {
    const Tokenizer tokenizer = OpenStyle(style);
    const std::string text = "\U0001F9FF";  // not in the training texts: several tokens
    const std::vector<int32_t> ids = tokenizer.Encode(text, SpecialTokens::kNone);
    ASSERT_GE(ids.size(), 3u);
    StreamDecoder decoder(tokenizer);
    std::string so_far;
    for (size_t i = 0; i + 1 < ids.size(); ++i) so_far += decoder.Push(ids[i]);
    EXPECT_EQ(so_far, "") << style;
    EXPECT_EQ(decoder.Push(ids.back()), text) << style;
    EXPECT_EQ(decoder.Flush(), "");
    so_far = decoder.Push(ids[ids.size() - 2]);
    so_far += decoder.Flush();
    EXPECT_EQ(so_far, std::string(kReplacementUtf8)) << style;
  }
}

TEST(StreamDecoder, GivesAByteRunOfTheOtherDialectAtItsEnd) {
  // The tokenizers library turns a whole run of byte tokens into U+FFFD when one byte is wrong. Nothing of the run is
  // certain before it ends.
  const Tokenizer tokenizer = OpenStyle("llama2");
  const std::vector<int32_t> emoji = tokenizer.Encode("\U0001F9FF", SpecialTokens::kNone);
  StreamDecoder decoder(tokenizer);
  std::string so_far;
  for (const int32_t id : emoji) so_far += decoder.Push(id);
  EXPECT_EQ(so_far, "");
  EXPECT_EQ(decoder.Push(tokenizer.TokenId("a")), "\U0001F9FFa");
  so_far = decoder.Push(emoji.back());
  so_far += decoder.Push(emoji.back());
  so_far += decoder.Flush();
  EXPECT_EQ(so_far, std::string(kReplacementUtf8) + std::string(kReplacementUtf8));
}

// Expected values come from tokenizers 0.23.3.
TEST(Decode, StripTakesCharactersOffBothEnds) {
  Json json = Json::parse(R"({"model":{"type":"BPE","vocab":{"xxabxx":0,"ab":1,"cax":2,"xac":3},"merges":[]},
    "decoder":{"type":"Strip","content":"x","start":1,"stop":1}})");
  const Tokenizer of_each = ParseTokenizer(json);
  for (const auto& [ids, text] : {std::pair<std::vector<int32_t>, std::string>{{0}, "xabx"},
                                  {{1}, "ab"},
                                  {{2}, "ca"},
                                  {{3}, "ac"},
                                  {{2, 3}, "caac"},
                                  {{0, 1}, "xabxab"}}) {
    EXPECT_EQ(of_each.Decode(ids), text);
  }
  json["decoder"] = Json::parse(R"({"type":"Sequence","decoders":[{"type":"Fuse"},
    {"type":"Strip","content":"x","start":2,"stop":2}]})");
  const Tokenizer of_all = ParseTokenizer(json);
  for (const auto& [ids, text] : {std::pair<std::vector<int32_t>, std::string>{{0}, "ab"},
                                  {{1}, "ab"},
                                  {{2}, "ca"},
                                  {{2, 3}, "caxxac"},
                                  {{0, 1}, "abxxab"},
                                  {{1, 0}, "abxxab"},
                                  {{3, 2}, "acca"}}) {
    EXPECT_EQ(of_all.Decode(ids), text);
  }
}

TEST(Decode, LeavesUnknownIdsOut) {
  const Tokenizer tokenizer = ParseTokenizer(Minimal());
  EXPECT_EQ(tokenizer.Decode({2, -5, 1000000, 3, 4, 0}), "ab<s> a");
  EXPECT_EQ(tokenizer.Decode({2, 3, 4, 0}, SpecialTokens::kNone), "ab a");
}

// The merge loop by definition: find the lowest rank, leftmost, merge, repeat.
std::vector<int32_t> SlowMerge(const MergeTable& merges, std::vector<int32_t> ids) {
  while (true) {
    const MergeRule* best = nullptr;
    size_t at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const MergeRule* rule = merges.Find(ids[i], ids[i + 1]);
      if (rule != nullptr && (best == nullptr || rule->rank < best->rank)) {
        best = rule;
        at = i;
      }
    }
    if (best == nullptr) return ids;
    ids[at] = best->id;
    ids.erase(ids.begin() + at + 1);
  }
}

TEST(BpeMerge, EqualsTheDefinitionOnRandomRules) {
  uint32_t seed = 1;
  const auto random = [&](uint32_t n) { return (seed = seed * 1664525 + 1013904223) / 7 % n; };
  for (int round = 0; round < 300; ++round) {
    // Every pair makes its own token; the ranks are a random order of all rules.
    MergeTable merges(64);
    int32_t next_id = 4;
    for (uint32_t k = 0; k < 40; ++k) {
      const uint32_t limit = next_id;
      const int32_t left = random(limit);
      const int32_t right = random(limit);
      if (merges.Find(left, right) == nullptr) merges.Set(left, right, {(k * 17 + 5) % 41, next_id++});
    }
    std::vector<int32_t> symbols(random(60));
    for (int32_t& symbol : symbols) symbol = random(4);
    BpeMerger merger;
    std::vector<int32_t> merged;
    merger.Merge(merges, symbols, &merged);
    ASSERT_EQ(merged, SlowMerge(merges, symbols));
  }
}

TEST(LongTexts, OnePieceOfTwoMegabytesIsEncoded) {
  // Quadratic merging would take hours here.
  struct LongText {
    const char* style;
    const char* unit;
  };
  for (const LongText& one : {LongText{"llama3", " "}, LongText{"llama3", "the"}, LongText{"llama3", "\n"},
                              LongText{"llama2", " "}, LongText{"llama2", "the"}, LongText{"llama2", "\u00e9"},
                              LongText{"mistral", "the  "}, LongText{"sentencepiece", "  the"}}) {
    const Tokenizer tokenizer = OpenStyle(one.style);
    std::string text;
    while (text.size() < 2'000'000) text += one.unit;
    const std::vector<int32_t> ids = tokenizer.Encode(text, SpecialTokens::kNone);
    EXPECT_TRUE(tokenizer.Decode(ids) == text) << one.style << " \"" << one.unit << "\"";
  }
}

TEST(Threads, OneTokenizerServesSeveral) {
  const Tokenizer tokenizer = OpenStyle("llama3");
  const std::string text = StyleFile("llama3", "tokenizer_config.json");
  const std::vector<int32_t> expected = tokenizer.Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> n_equal(4, 0);
  for (size_t t = 0; t < n_equal.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i)
        n_equal[t] += tokenizer.Encode(text) == expected && tokenizer.Decode(expected).size() > 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(n_equal, testing::Each(20));
}

}  // namespace
}  // namespace duo
