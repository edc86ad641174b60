#include "server/token_texts.h"

#include <vector>

namespace duo {

TokenTexts::TokenTexts(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {
  const std::vector<int32_t> ids = tokenizer->Encode("a", SpecialTokens::kNone);
  if (ids.empty()) return;
  before_ = ids.back();
  before_text_ = tokenizer->Decode({before_}, SpecialTokens::kAdd);
}

std::string TokenTexts::Of(int32_t id) const {
  const std::string both = tokenizer_->Decode({before_, id}, SpecialTokens::kAdd);
  return before_ >= 0 && both.compare(0, before_text_.size(), before_text_) == 0
             ? both.substr(before_text_.size())
             : tokenizer_->Decode({id}, SpecialTokens::kAdd);
}

}  // namespace duo
