// The machine-readable results of --json: one JSON value and a newline on stdout.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "duo/generate.h"
#include "duo/result.h"
#include "duo/session.h"

namespace duo::cli {

/// Bytes of invalid UTF-8 are replaced by U+FFFD. kIo when stdout cannot be written.
Status PrintJson(const Json& value);

/// {"prefill_ms","decode_ms","first_token_ms","prefill_tokens","decode_tokens","prefill_tokens_per_s",
///  "decode_tokens_per_s"}. The first generated token comes from the prefill's logits: decode_tokens_per_s counts the
/// model's steps after it.
Json TimingsJson(const GenerateResult& result, int64_t n_prompt_tokens);

/// {"kv_bytes", "kv_bytes_per_token", "kv_fixed_bytes", "snapshot_bytes_each", "activation_bytes", "weights_bytes",
///  "total_bytes", "peak_rss_bytes"} of the session at its current length.
Json MemoryJson(const Session& session);

/// The share of streaming heads and the window that a session runs with:
/// {"n_retrieval","n_streaming","sparsity","sink","recent","prefill_recent"}.
Json HeadsJson(const SessionOptions& resolved);

}  // namespace duo::cli
