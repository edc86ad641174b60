#include "text/added_tokens.h"

#include <algorithm>

#include "base/error.h"
#include "text/limits.h"
#include "text/utf8.h"

namespace duo {
namespace {

bool TouchesWord(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWordCharacter(NextUtf8(text, PreviousUtf8(text, begin)).code_point)) return true;
  return end < text.size() && IsWordCharacter(NextUtf8(text, end).code_point);
}

// Stops at `floor`, the end of the previous token, so that no white space is taken twice.
size_t SkipSpaceBackwards(std::string_view text, size_t pos, size_t floor) {
  while (pos > floor) {
    const size_t previous = PreviousUtf8(text, pos);
    if (!IsWhiteSpace(NextUtf8(text, previous).code_point)) break;
    pos = previous;
  }
  return std::max(pos, floor);
}

size_t SkipSpaceForwards(std::string_view text, size_t pos) {
  while (pos < text.size()) {
    const Utf8Step step = NextUtf8(text, pos);
    if (!IsWhiteSpace(step.code_point)) break;
    pos += step.n_bytes;
  }
  return pos;
}

}  // namespace

Result<AddedToken> AddedToken::Parse(const Json& entry, int64_t id, const std::string& where) {
  AddedToken token;
  DUO_ASSIGN_OR_RETURN(token.content, JsonString(entry, "content", where));
  if (token.content.size() > text_limits::kMaxAddedTokenBytes) {
    return Unsupported("{}: content: {} bytes, expected at most {}", where, token.content.size(),
                       text_limits::kMaxAddedTokenBytes);
  }
  if (id < 0 || id > text_limits::kMaxTokenId) {
    return Corrupt("{}: id: {}, expected 0..{}", where, id, text_limits::kMaxTokenId);
  }
  token.id = id;
  DUO_ASSIGN_OR_RETURN(token.single_word, JsonBoolOr(entry, "single_word", false, where));
  DUO_ASSIGN_OR_RETURN(token.lstrip, JsonBoolOr(entry, "lstrip", false, where));
  DUO_ASSIGN_OR_RETURN(token.rstrip, JsonBoolOr(entry, "rstrip", false, where));
  DUO_ASSIGN_OR_RETURN(token.special, JsonBoolOr(entry, "special", false, where));
  DUO_ASSIGN_OR_RETURN(token.normalized, JsonBoolOr(entry, "normalized", !token.special, where));
  return token;
}

Status AddedTokenFinder::Add(const AddedToken& token, std::string_view pattern, const std::string& where) {
  if (pattern.empty()) return OkStatus();
  total_bytes_ += pattern.size();
  if (pattern.size() > text_limits::kMaxAddedTokenBytes || total_bytes_ > text_limits::kMaxAddedTokenTotalBytes) {
    return Unsupported("{}: a token of {} bytes, {} with those before it; expected at most {} and {}", where,
                       pattern.size(), total_bytes_, text_limits::kMaxAddedTokenBytes,
                       text_limits::kMaxAddedTokenTotalBytes);
  }
  uint32_t node = 0;
  for (const char c : pattern) {
    const uint8_t byte = c;
    uint32_t child = Child(node, byte);
    if (child == 0) {
      child = nodes_.size();
      nodes_.emplace_back();
      nodes_[node].children.emplace_back(byte, child);
      if (node == 0) first_[byte] = child;
    }
    node = child;
  }
  if (nodes_[node].token >= 0) return OkStatus();
  nodes_[node].token = tokens_.size();
  tokens_.push_back({token.id, token.single_word, token.lstrip, token.rstrip, token.special});
  return OkStatus();
}

uint32_t AddedTokenFinder::Child(uint32_t node, uint8_t byte) const {
  if (node == 0) return first_[byte];
  for (const auto& [label, child] : nodes_[node].children) {
    if (label == byte) return child;
  }
  return 0;
}

int32_t AddedTokenFinder::Match(std::string_view text, size_t pos, size_t* end) const {
  int32_t found = -1;
  uint32_t node = 0;
  for (size_t i = pos; i < text.size(); ++i) {
    node = Child(node, text[i]);
    if (node == 0) break;
    if (nodes_[node].token >= 0) {
      found = nodes_[node].token;
      *end = i + 1;
    }
  }
  return found;
}

std::vector<AddedTokenFinder::Piece> AddedTokenFinder::Split(std::string_view text, bool skip_special) const {
  std::vector<Piece> pieces;
  size_t copied = 0;  // end of the last piece
  for (size_t pos = 0; pos < text.size();) {
    size_t end = 0;
    const int32_t index = first_[static_cast<uint8_t>(text[pos])] == 0 ? -1 : Match(text, pos, &end);
    if (index < 0) {
      ++pos;
      continue;
    }
    const Flags& token = tokens_[index];
    size_t begin = pos;
    pos = end;  // a match that is discarded below still consumes its text, as in the reference
    if (skip_special && token.special) continue;
    if (token.single_word && TouchesWord(text, begin, end)) continue;
    if (token.lstrip) begin = SkipSpaceBackwards(text, begin, copied);
    if (token.rstrip) end = SkipSpaceForwards(text, end);
    // This token is white space that the previous token already took: the same text does not give a second token.
    if (begin >= end) continue;
    if (copied < begin) pieces.push_back({text.substr(copied, begin - copied), -1});
    pieces.push_back({text.substr(begin, end - begin), token.id});
    copied = end;
  }
  if (copied < text.size()) pieces.push_back({text.substr(copied), -1});
  return pieces;
}

}  // namespace duo
