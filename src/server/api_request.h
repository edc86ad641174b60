// Parses the bodies of requests and checks every field. Untrusted bytes; see fuzz/api_request_fuzz.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "duo/generate.h"
#include "duo/tokenizer.h"
#include "server/api_error.h"
#include "server/cache_spec.h"

namespace duo {

/// A text, or token ids.
using Prompt = std::variant<std::string, std::vector<int32_t>>;

struct CompletionRequest {
  std::string model;                  // empty = the one that is served
  std::vector<Prompt> prompts;        // for kText: at least one
  std::vector<ChatMessage> messages;  // for kChat: at least one
  GenerateOptions generate;
  std::optional<int64_t> max_tokens;
  bool has_seed = false;
  int n_log_probs = -1;  // most likely tokens to report for every token; -1 = no log probabilities
  bool echo = false;
  bool stream = false;
  bool include_usage = false;
  bool reuse = true;  // "cache_prompt": prompt tokens may come from sequences in memory instead of being read
  CacheSpec spec;
  bool pin_system_prompt = false;
  std::string cache;  // name of a session; empty = none
};

struct TokenizeRequest {
  std::optional<std::string> text;
  std::vector<ChatMessage> messages;
  bool add_special = true;
  bool count_only = false;  // return the number of tokens without the tokens
};

enum class CompletionKind : uint8_t { kText, kChat };

constexpr size_t kMaxPrompts = 64;
constexpr size_t kMaxStops = 16;
constexpr int kMaxLogProbs = 20;
constexpr size_t kMaxSaltBytes = 256;

/// Each parses a body. The error names the first field that is unknown, missing, of a wrong type or out of range.
ApiResult<CompletionRequest> ParseCompletion(std::string_view body, CompletionKind kind);
ApiResult<TokenizeRequest> ParseTokenize(std::string_view body);
ApiResult<std::vector<int32_t>> ParseDetokenize(std::string_view body);

/// Whether `name` consists of 1..64 letters, digits, '.', '_' and '-' and does not begin with a dot. Such a name is
/// valid as a file name in any folder.
bool IsSessionName(std::string_view name);

}  // namespace duo
