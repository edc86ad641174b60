// Reads tokenizer.json of the `tokenizers` library: BPE models in both dialects (byte-level and SentencePiece-style).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_impl.h"

namespace duo {

/// `text` is the content of the file at `path` (for messages). The "truncation" and "padding" of the file are not
/// applied. kCorrupt names file and key, found and expected. kUnsupported names the model, step or option that duo
/// lacks.
Result<std::unique_ptr<Tokenizer::Impl>> ParseTokenizerJson(std::string_view text, const std::string& path,
                                                            const TokenizerConfig& config);

}  // namespace duo
