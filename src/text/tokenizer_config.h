// tokenizer_config.json and chat_template.jinja: what stands beside the vocabulary.
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
  std::vector<AddedToken> added_tokens;               // added_tokens_decoder, with the ids of their keys
  std::vector<AddedToken> additional_special_tokens;  // and extra_special_tokens, as it is called now; without ids
  std::string chat_template;                          // Jinja text, empty: none

  /// The files of `dir`; a missing file leaves the defaults. kCorrupt names file and key.
  static Result<TokenizerConfig> Read(const std::string& dir);
  /// `text` is the content of tokenizer_config.json.
  static Result<TokenizerConfig> Parse(const std::string& text, const std::string& path);
};

}  // namespace duo
