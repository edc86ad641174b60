// Tokenizers for tests, from JSON or from tests/data/tokenizers.
#pragma once

#include <string>

#include "base/json.h"
#include "duo/tokenizer.h"
#include "text/tokenizer_config.h"

namespace duo {

/// Parses a tokenizer.json; the test fails if it is refused.
Tokenizer ParseTokenizer(const Json& json, const TokenizerConfig& config = {});

/// The folder of a style ("llama3"), and the tokenizer in it. The test fails if it does not open.
std::string StyleDir(const std::string& style);
Tokenizer OpenStyle(const std::string& style);
/// The bytes of a file in that folder; the test fails if it cannot be read.
std::string StyleFile(const std::string& style, const std::string& name);

}  // namespace duo
