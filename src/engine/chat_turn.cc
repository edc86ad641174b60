#include "duo/chat_turn.h"

#include "base/common_prefix.h"

namespace duo {

void AddTurnEnds(const Tokenizer& tokenizer, const ChatTemplate& chat, GenerateOptions* options) {
  for (const std::string& end : chat.stop_tokens()) {
    const int32_t id = tokenizer.TokenId(end);
    if (id >= 0) {
      options->stop_ids.push_back(id);
    } else {
      options->stop.push_back(end);
    }
  }
}

Result<int64_t> SystemPromptTokens(const Tokenizer& tokenizer, const ChatTemplate& chat, const ChatMessage& system) {
  const ChatMessage a = {ChatMessage::Role::kUser, "a"};
  const ChatMessage b = {ChatMessage::Role::kUser, "1"};
  DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids_a, chat.Render(tokenizer, {system, a}));
  DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids_b, chat.Render(tokenizer, {system, b}));
  return CommonPrefix(ids_a, ids_b);
}

}  // namespace duo
