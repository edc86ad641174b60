// What generating needs to know of a chat template: where the assistant's turn ends, what conversations share.
#pragma once

#include <cstdint>

#include "duo/generate.h"
#include "duo/tokenizer.h"

namespace duo {

/// Ends of the assistant's turn: as ids where the vocabulary has them, so that they never show, else as text.
void AddTurnEnds(const Tokenizer& tokenizer, const ChatTemplate& chat, GenerateOptions* options);

/// Tokens that all conversations with this system message begin with. Errors as ChatTemplate::Render.
Result<int64_t> SystemPromptTokens(const Tokenizer& tokenizer, const ChatTemplate& chat, const ChatMessage& system);

}  // namespace duo
