// Tokens that are looked for in the text itself before the model sees it ("<|eot_id|>").
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "duo/result.h"

namespace duo {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;  // matches only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // takes the white space after it along
  bool normalized = false;   // looked for after normalisation, itself normalised
  bool special = false;      // left out by Decode(kNone)

  /// One entry of "added_tokens" (tokenizer.json) or of "added_tokens_decoder" (tokenizer_config.json, id = its key).
  static Result<AddedToken> Parse(const Json& entry, int64_t id, const std::string& where);
};

/// Finds tokens in text: leftmost, longest first. Immutable once filled.
class AddedTokenFinder {
 public:
  struct Piece {
    std::string_view text;
    int32_t id;  // -1: ordinary text
  };

  /// `pattern`: what to look for (the token's content, normalised where it asks for that). kUnsupported, naming
  /// `where`, when it or all of them together are too long: every byte costs a search node.
  Status Add(const AddedToken& token, std::string_view pattern, const std::string& where);

  /// `text` as ordinary pieces and tokens, in order; no ordinary piece is empty. `skip_special`: special tokens are
  /// ordinary text. Costs at most the length of the longest token per byte.
  std::vector<Piece> Split(std::string_view text, bool skip_special) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> children;  // byte -> node
    int32_t token = -1;                                  // index into tokens_
  };
  struct Flags {
    int32_t id;
    bool single_word;
    bool lstrip;
    bool rstrip;
    bool special;
  };
  uint32_t Child(uint32_t node, uint8_t byte) const;
  // Index of the longest token at text[pos] and its end; -1 when there is none.
  int32_t Match(std::string_view text, size_t pos, size_t* end) const;

  std::vector<Node> nodes_{1};
  std::array<uint32_t, 256> first_{};  // by first byte; 0: no token begins with it
  std::vector<Flags> tokens_;
  size_t total_bytes_ = 0;  // of all patterns
};

}  // namespace duo
