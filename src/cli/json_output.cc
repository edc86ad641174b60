#include "cli/json_output.h"

#include <algorithm>

#include "base/memory_info.h"
#include "cli/terminal.h"

namespace duo::cli {

Status PrintJson(const Json& value) { return WriteOut(JsonText(value) + "\n"); }

Json TimingsJson(const GenerateResult& result, int64_t n_prompt_tokens) {
  const auto n_tokens = std::ssize(result.tokens);
  const auto rate = [](int64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0.0; };
  return {{"prefill_ms", result.prefill_seconds * 1e3},
          {"decode_ms", result.decode_seconds * 1e3},
          {"first_token_ms", result.first_token_seconds * 1e3},
          {"prefill_tokens", n_prompt_tokens},
          {"decode_tokens", n_tokens},
          {"prefill_tokens_per_s", rate(n_prompt_tokens, result.prefill_seconds)},
          {"decode_tokens_per_s", rate(std::max<int64_t>(n_tokens - 1, 0), result.decode_seconds)}};
}

Json MemoryJson(const Session& session) {
  const MemoryPlan& plan = session.plan();
  return {{"kv_bytes", session.kv_bytes()},
          {"kv_bytes_per_token", plan.kv_bytes_per_token},
          {"kv_fixed_bytes", plan.kv_fixed_bytes},
          {"snapshot_bytes_each", plan.snapshot_bytes_each},
          {"activation_bytes", plan.activation_bytes},
          {"weights_bytes", plan.weights_bytes},
          {"total_bytes", plan.TotalBytes(session.len())},
          {"peak_rss_bytes", PeakRssBytes()}};
}

Json HeadsJson(const SessionOptions& resolved) {
  const auto n_heads = static_cast<int>(resolved.heads.retrieval.size());
  return {{"n_retrieval", resolved.heads.n_retrieval()},
          {"n_streaming", n_heads - resolved.heads.n_retrieval()},
          {"sparsity", resolved.heads.sparsity()},
          {"sink", resolved.sink},
          {"recent", resolved.recent},
          {"prefill_recent", resolved.prefill_recent}};
}

}  // namespace duo::cli
