// tokenizer_config.json and chat_template.jinja: the settings that accompany the vocabulary.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "duo/result.h"
#include "text/added_tokens.h"

namespace duo {

struct TokenizerConfig {
  std::string path;       // for messages
  std::string bos_token;  // empty: none
  std::string eos_token;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::vector<AddedToken> added_tokens;               // from added_tokens_decoder, whose keys are the ids
  std::vector<AddedToken> additional_special_tokens;  // also from extra_special_tokens, the newer name; without ids
  std::string chat_template;                          // Jinja text; empty: none

  /// Reads the files of `dir`. A missing file leaves the defaults. kCorrupt names file and key.
  static Result<TokenizerConfig> Read(const std::string& dir);
  /// `text` is the content of tokenizer_config.json.
  static Result<TokenizerConfig> Parse(const std::string& text, const std::string& path);
};

}  // namespace duo
