// Bodies of requests, checked field by field. Untrusted bytes; fuzz/api_request_fuzz.cc.
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

/// A text, or tokens as they are.
using Prompt = std::variant<std::string, std::vector<int32_t>>;

struct CompletionRequest {
  std::string model;                  // empty = whichever is served
  std::vector<Prompt> prompts;        // of a completion: at least one
  std::vector<ChatMessage> messages;  // of a chat: at least one
  GenerateOptions generate;
  std::optional<int64_t> max_tokens;
  bool has_seed = false;
  int n_log_probs = -1;  // -1 = none
  bool echo = false;
  bool stream = false;
  bool include_usage = false;
  bool reuse = true;  // "cache_prompt": tokens of the prompt may be found in memory instead of read
  CacheSpec spec;
  bool pin_system_prompt = false;
  std::string cache;  // name of a session, empty = none
};

struct TokenizeRequest {
  std::optional<std::string> text;
  std::vector<ChatMessage> messages;
  bool add_special = true;
  bool count_only = false;  // the tokens themselves are not wanted
};

enum class CompletionKind : uint8_t { kText, kChat };

constexpr size_t kMaxPrompts = 64;
constexpr size_t kMaxStops = 16;
constexpr int kMaxLogProbs = 20;
constexpr size_t kMaxSaltBytes = 256;

/// Every field is known and in range, or the error names it.
std::optional<ApiError> ParseCompletion(std::string_view body, CompletionKind kind, CompletionRequest* request);
std::optional<ApiError> ParseTokenize(std::string_view body, TokenizeRequest* request);
std::optional<ApiError> ParseDetokenize(std::string_view body, std::vector<int32_t>* tokens);

/// Letters, digits, '.', '_' and '-', not beginning with a dot, 1..64 of them: a name that is a file's name in any
/// folder.
bool IsSessionName(std::string_view name);

}  // namespace duo
