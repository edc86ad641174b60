// tokenizer.model through the SentencePiece library, for checkpoints without a tokenizer.json.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_impl.h"

namespace duo {

/// `bytes` is the content of the file at `path`. bos goes in front unless the config says add_bos_token false, eos
/// behind only where it says add_eos_token true. Control tokens and the config's added tokens are looked for in the
/// text; what stands between them is encoded on its own, each stretch with the model's leading space.
/// kCorrupt, kUnsupported.
Result<std::unique_ptr<Tokenizer::Impl>> ParseSentencePiece(std::string_view bytes, const std::string& path,
                                                            const TokenizerConfig& config);

}  // namespace duo
