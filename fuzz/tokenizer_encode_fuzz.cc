// Runs any bytes through a byte-level and a byte-fallback tokenizer. Decoding returns the repaired text, in one go and
// in steps, and never half a character.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "base/json.h"
#include "duo/tokenizer.h"
#include "text/byte_alphabet.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace {

using duo::Json;

constexpr const char* kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

duo::Tokenizer Build(const Json& json) {
  return duo::Tokenizer::Impl::Wrap(duo::ParseTokenizerJson(json.dump(), "built in", {}).value());
}

duo::Tokenizer ByteLevel() {
  Json vocab = Json::object();
  for (int b = 0; b < 256; ++b) vocab[duo::ByteToAlphabet(static_cast<uint8_t>(b))] = b;
  vocab["ab"] = 256;
  vocab["aba"] = 257;
  vocab["\u0120\u0120"] = 258;
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", kLlama3Regex}}}, {"behavior", "Isolated"}};
  const Json last = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return Build({{"model", {{"vocab", vocab}, {"merges", {"a b", "ab a", "\u0120 \u0120"}}, {"ignore_merges", true}}},
                {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, last}}}},
                {"decoder", {{"type", "ByteLevel"}}}});
}

duo::Tokenizer ByteFallback() {
  Json vocab = {{"\u2581", 256}, {"a", 257}, {"b", 258}, {"ab", 259}, {"\u2581a", 260}, {"\u2581\u2581", 261}};
  for (int b = 0; b < 256; ++b) vocab[fmt::format("<0x{:02X}>", b)] = b;
  const Json space = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  const Json mark = {{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}};
  return Build(
      {{"model", {{"vocab", vocab}, {"merges", {"a b", "\u2581 a", "\u2581 \u2581"}}, {"byte_fallback", true}}},
       {"normalizer", space},
       {"decoder", {{"type", "Sequence"}, {"decoders", {mark, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}}}});
}

std::string InSteps(const duo::Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  duo::StreamDecoder decoder(tokenizer);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = decoder.Push(id);
    if (!duo::IsValidUtf8(piece)) std::abort();
    text += piece;
  }
  return text + decoder.Flush();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const duo::Tokenizer byte_level = ByteLevel();
  static const duo::Tokenizer byte_fallback = ByteFallback();
  std::string text;
  duo::AppendReplacingInvalid({reinterpret_cast<const char*>(data), size}, &text);
  const std::vector<int32_t> ids = byte_level.Encode({reinterpret_cast<const char*>(data), size});
  if (byte_level.Decode(ids) != text || InSteps(byte_level, ids) != text) std::abort();
  const std::vector<int32_t> fallback_ids = byte_fallback.Encode(text);
  const std::string back = byte_fallback.Decode(fallback_ids);
  if (back != InSteps(byte_fallback, fallback_ids)) std::abort();
  if (text.find("\xE2\x96\x81") == std::string::npos && back != text) std::abort();
  // Any ids decode to whole characters.
  std::vector<int32_t> any(data, data + size);
  if (InSteps(byte_level, any) != byte_level.Decode(any)) std::abort();
  if (InSteps(byte_fallback, any) != byte_fallback.Decode(any)) std::abort();
  return 0;
}
