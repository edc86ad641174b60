#include "text/tokenizer_for_test.h"

#include <gtest/gtest.h>

#include <utility>

#include "base/data_for_test.h"
#include "base/file.h"
#include "text/tokenizer_json.h"

namespace duo {

Tokenizer ParseTokenizer(const Json& json, const TokenizerConfig& config) {
  auto parsed = ParseTokenizerJson(json.dump(), "dir/tokenizer.json", config);
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  return Tokenizer::Impl::Wrap(std::move(parsed).value());
}

std::string StyleDir(const std::string& style) { return SourceDir() + "/tests/data/tokenizers/" + style; }

Tokenizer OpenStyle(const std::string& style) {
  Result<Tokenizer> opened = Tokenizer::Open(StyleDir(style));
  EXPECT_TRUE(opened.ok()) << opened.status().message();
  return std::move(opened).value();
}

std::string StyleFile(const std::string& style, const std::string& name) {
  Result<std::string> bytes = ReadFile(StyleDir(style) + "/" + name, size_t{1} << 30);
  EXPECT_TRUE(bytes.ok()) << bytes.status().message();
  return std::move(bytes).value();
}

}  // namespace duo
