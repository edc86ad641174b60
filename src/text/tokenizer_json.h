// tokenizer.json of the `tokenizers` library, BPE models in both dialects (byte-level and SentencePiece-style).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_impl.h"

namespace duo {

/// `text` is the content of the file at `path` (for messages).
/// kCorrupt: file and key, found and expected. kUnsupported: the model, step or option duo lacks.
/// "truncation" and "padding" of the file are not applied.
Result<std::unique_ptr<Tokenizer::Impl>> ParseTokenizerJson(std::string_view text, const std::string& path,
                                                            const TokenizerConfig& config);

}  // namespace duo
