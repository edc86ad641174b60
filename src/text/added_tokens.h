// Tokens that are matched in the text itself before the model sees it ("<|eot_id|>").
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
  bool lstrip = false;       // also takes the white space before it
  bool rstrip = false;       // also takes the white space after it
  bool normalized = false;   // matched after normalisation, in its normalised form
  bool special = false;      // omitted by Decode(kNone)

  /// Parses one entry of "added_tokens" (tokenizer.json) or "added_tokens_decoder" (tokenizer_config.json, where its
  /// key is the id).
  static Result<AddedToken> Parse(const Json& entry, int64_t id, const std::string& where);
};

/// Finds tokens in text: the leftmost match first, and the longest at one position. Immutable once filled.
class AddedTokenFinder {
 public:
  struct Piece {
    std::string_view text;
    int32_t id;  // -1: ordinary text
  };

  /// `pattern` is the text to find: the token's content, normalised if the token asks for it. Returns kUnsupported,
  /// naming `where`, when this pattern or all patterns together are too long: every byte costs a search node.
  Status Add(const AddedToken& token, std::string_view pattern, const std::string& where);

  /// Cuts `text` into ordinary pieces and tokens, in order. No ordinary piece is empty. With `skip_special`, special
  /// tokens are ordinary text. Each byte costs at most the length of the longest token.
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
  // Returns the index of the longest token at text[pos] and sets `end` to its end; -1 if no token matches.
  int32_t Match(std::string_view text, size_t pos, size_t* end) const;

  std::vector<Node> nodes_{1};
  std::array<uint32_t, 256> first_{};  // by first byte; 0: no token begins with it
  std::vector<Flags> tokens_;
  size_t total_bytes_ = 0;  // of all patterns
};

}  // namespace duo
