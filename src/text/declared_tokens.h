// Tokens that tokenizer_config.json declares, beside those of the tokenizer's own file.
#pragma once

#include <string>
#include <vector>

#include "duo/result.h"
#include "text/added_tokens.h"
#include "text/tokenizer_config.h"
#include "text/vocabulary.h"

namespace duo {

/// `own` (the added tokens of the tokenizer's file) and what the config declares, as the reference puts them together:
/// of a token that both have, the config's flags count and the file's id; a token that is in the model's vocabulary has
/// its id there; others, in the order of their ids in added_tokens_decoder, then as additional_special_tokens lists
/// them, get the next free ids. kUnsupported when there are too many.
Result<std::vector<AddedToken>> WithDeclaredTokens(std::vector<AddedToken> own, const Vocabulary& vocabulary,
                                                   const TokenizerConfig& config);

}  // namespace duo
