// Reads tokenizer.model with the SentencePiece library, for checkpoints without a tokenizer.json.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_impl.h"

namespace duo {

/// `bytes` is the content of the file at `path`. Encoding begins with bos unless the config sets add_bos_token to
/// false, and ends with eos only if the config sets add_eos_token to true. Control tokens and the config's added tokens
/// are matched in the text. Each stretch of text between them is encoded on its own, with the model's leading space.
/// Errors: kCorrupt, kUnsupported.
Result<std::unique_ptr<Tokenizer::Impl>> ParseSentencePiece(std::string_view bytes, const std::string& path,
                                                            const TokenizerConfig& config);

}  // namespace duo
