// Maps token text to ids and back. Texts are spelled as in the model's file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "duo/result.h"

namespace duo {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using IdByText = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

/// Immutable once filled. Ids may have gaps.
class Vocabulary {
 public:
  /// Parses {"token": id, ...}. kCorrupt names the token whose id is out of range, or the two tokens that share one.
  static Result<Vocabulary> Parse(const Json& vocab, const std::string& where);

  /// kCorrupt when the id is out of range or taken, or the text was added before.
  Status Add(std::string_view text, int64_t id, const std::string& where);

  /// -1 if the text is not in the vocabulary.
  int32_t Find(std::string_view text) const {
    const auto it = ids_.find(text);
    return it == ids_.end() ? -1 : it->second;
  }
  /// Null if no token has this id. Valid until the next Add.
  const std::string* Text(int32_t id) const { return id >= 0 && id < std::ssize(texts_) ? texts_[id] : nullptr; }
  /// 1 + the largest id.
  int32_t end_id() const { return std::ssize(texts_); }
  size_t size() const { return ids_.size(); }

 private:
  IdByText ids_;
  std::vector<const std::string*> texts_;  // by id; points into ids_, whose nodes do not move
};

}  // namespace duo
