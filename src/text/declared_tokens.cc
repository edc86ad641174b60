#include "text/declared_tokens.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "text/limits.h"

namespace duo {
namespace {

class Merger {
 public:
  Merger(std::vector<AddedToken> own, const Vocabulary& vocabulary)
      : tokens_(std::move(own)), vocabulary_(vocabulary), next_id_(vocabulary.end_id()) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      index_.emplace(tokens_[i].content, i);
      next_id_ = std::max(next_id_, tokens_[i].id + 1);
    }
  }

  bool Has(const std::string& content) const { return index_.contains(content); }

  Status Add(AddedToken token, const std::string& where) {
    if (token.content.empty()) return OkStatus();
    if (const auto known = index_.find(token.content); known != index_.end()) {
      AddedToken& own = tokens_[known->second];
      token.id = own.id;
      token.special = token.special || own.special;
      own = std::move(token);
      return OkStatus();
    }
    const int32_t in_vocabulary = vocabulary_.Find(token.content);
    token.id = in_vocabulary >= 0 ? in_vocabulary : next_id_++;
    if (token.id > text_limits::kMaxTokenId || tokens_.size() >= 2 * text_limits::kMaxAddedTokens) {
      return Unsupported("{}: too many tokens, expected at most {}", where, 2 * text_limits::kMaxAddedTokens);
    }
    index_.emplace(token.content, tokens_.size());
    tokens_.push_back(std::move(token));
    return OkStatus();
  }

  std::vector<AddedToken> Take() { return std::move(tokens_); }

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<std::string, size_t> index_;  // by content; the index of the token in tokens_
  const Vocabulary& vocabulary_;
  int32_t next_id_;
};

}  // namespace

Result<std::vector<AddedToken>> WithDeclaredTokens(std::vector<AddedToken> own, const Vocabulary& vocabulary,
                                                   const TokenizerConfig& config) {
  Merger merger(std::move(own), vocabulary);
  std::vector<AddedToken> declared = config.added_tokens;
  std::stable_sort(declared.begin(), declared.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (AddedToken& token : declared) {
    DUO_RETURN_IF_ERROR(merger.Add(std::move(token), config.path + ": added_tokens_decoder"));
  }
  for (const AddedToken& token : config.additional_special_tokens) {
    if (merger.Has(token.content)) continue;
    DUO_RETURN_IF_ERROR(merger.Add(token, config.path + ": additional_special_tokens"));
  }
  return merger.Take();
}

}  // namespace duo
