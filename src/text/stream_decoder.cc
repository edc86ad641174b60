#include <optional>
#include <utility>

#include "duo/tokenizer.h"
#include "text/decoder.h"
#include "text/tokenizer_impl.h"

namespace duo {

struct StreamDecoder::State {
  State(const Tokenizer::Impl& tokenizer_impl, SpecialTokens special_tokens)
      : impl(tokenizer_impl), special(special_tokens) {
    run.emplace(impl.decoder(), &text);
  }

  const Tokenizer::Impl& impl;
  SpecialTokens special;
  std::string text;  // decided text that was not returned yet
  std::optional<Decoder::Run> run;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, SpecialTokens special)
    : state_(std::make_unique<State>(*tokenizer.impl_, special)) {}
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::Push(int32_t id) {
  const std::string* token = state_->impl.DecodedText(id);
  const bool skipped = token == nullptr || (state_->special == SpecialTokens::kNone && state_->impl.IsSpecial(id));
  if (!skipped) state_->run->Take(*token);
  return std::exchange(state_->text, std::string());
}

std::string StreamDecoder::Flush() {
  state_->run->Finish();
  state_->run.emplace(state_->impl.decoder(), &state_->text);  // the next token begins a new text
  return std::exchange(state_->text, std::string());
}

}  // namespace duo
