// Tokens that tokenizer_config.json declares in addition to those of the tokenizer's own file.
#pragma once

#include <string>
#include <vector>

#include "duo/result.h"
#include "text/added_tokens.h"
#include "text/tokenizer_config.h"
#include "text/vocabulary.h"

namespace duo {

/// Merges `own` (the added tokens of the tokenizer's file) with the tokens that the config declares, as the reference
/// does. If both have a token, it gets the file's id and the config's flags, but a special token stays special. A token
/// in the model's vocabulary has its id there. All others get the next free ids: first added_tokens_decoder in the
/// order of its ids, then additional_special_tokens in listed order. Returns kUnsupported when there are too many.
Result<std::vector<AddedToken>> WithDeclaredTokens(std::vector<AddedToken> own, const Vocabulary& vocabulary,
                                                   const TokenizerConfig& config);

}  // namespace duo
