// Facts about a chat template that generation needs: where the assistant's turn ends, and which tokens conversations
// share.
#pragma once

#include <cstdint>

#include "duo/generate.h"
#include "duo/tokenizer.h"

namespace duo {

/// Adds the ends of the assistant's turn to the options. An end that is a token of the vocabulary becomes a stop id, so
/// that it never shows in the text. Any other becomes a stop string.
void AddTurnEnds(const Tokenizer& tokenizer, const ChatTemplate& chat, GenerateOptions* options);

/// Number of tokens that all conversations with this system message begin with. Errors as ChatTemplate::Render.
Result<int64_t> SystemPromptTokens(const Tokenizer& tokenizer, const ChatTemplate& chat, const ChatMessage& system);

}  // namespace duo
