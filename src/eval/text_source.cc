#include "eval/text_source.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "base/fnv1a.h"
#include "base/rng.h"
#include "base/strings.h"
#include "text/builtin_book.h"
#include "text/passkey_words.h"

namespace duo {
namespace {

Result<std::string> BuiltinText(int64_t n_tokens, uint64_t seed, const Tokenizer& tokenizer) {
  // The book may be shorter than asked for, by 0.2 % or a sentence.
  const int64_t wanted = n_tokens + n_tokens / 100 + 200;
  DUO_ASSIGN_OR_RETURN(const Book book,
                       MakeBook({.n_tokens = wanted, .n_facts = 0, .seed = seed},
                                [&](std::string_view text) { return std::ssize(tokenizer.Encode(text)); }));
  std::string text = book.text.substr(kBookBegin.size() + 1);
  text.resize(text.size() - kBookEnd.size() - 1);
  return text;
}

}  // namespace

Result<TextSource> TextSource::Open(const std::string& path) {
  TextSource source;
  source.builtin_ = path == "builtin";
  if (source.builtin_) return source;
  DUO_ASSIGN_OR_RETURN(Haystack haystack, LoadHaystack(path));
  source.text_ = std::move(haystack.text);
  if (Trim(source.text_).empty()) {
    return InvalidArgument("{}: there is no text in it", path);
  }
  return source;
}

Result<std::string> TextSource::Take(int64_t n_tokens, uint64_t seed, const Tokenizer& tokenizer) const {
  if (builtin_) return BuiltinText(n_tokens, seed, tokenizer);
  size_t begin = 0;
  if (seed != 0) {
    begin = text_.find("\n\n", Rng(seed).Below(text_.size()));
    begin = begin == std::string::npos ? 0 : begin + 2;
  }
  std::string out = text_.substr(begin);
  size_t characters = static_cast<size_t>(n_tokens) * 4;
  // Grows until there are enough tokens, because languages differ in characters per token.
  for (;;) {
    while (out.size() < characters) out += "\n\n" + text_;
    size_t end = characters;
    while (end < out.size() && IsUtf8Continuation(out[end])) ++end;  // whole characters
    std::string text = out.substr(0, end);
    if (std::ssize(tokenizer.Encode(text)) > n_tokens) return text;
    characters += characters / 2 + 64;
  }
}

Result<std::string> TextSource::Whole(int64_t n_tokens, const Tokenizer& tokenizer) const {
  return builtin_ ? BuiltinText(n_tokens, 0, tokenizer) : Result<std::string>(text_);
}

std::string TextSource::identity() const {
  if (builtin_) return "builtin";
  Fnv1a hash;
  hash.Add(text_.data(), text_.size());
  return fmt::format("{} bytes, {}", text_.size(), hash.Text());
}

}  // namespace duo
