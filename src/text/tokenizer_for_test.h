// Tokenizers for tests: from JSON, and those of tests/data/tokenizers.
#pragma once

#include <string>

#include "base/json.h"
#include "duo/tokenizer.h"
#include "text/tokenizer_config.h"

namespace duo {

/// A tokenizer.json; the test fails where it is not read.
Tokenizer ParseTokenizer(const Json& json, const TokenizerConfig& config = {});

/// The folder of a style ("llama3"), and the tokenizer in it; the test fails where it does not open.
std::string StyleDir(const std::string& style);
Tokenizer OpenStyle(const std::string& style);

}  // namespace duo
