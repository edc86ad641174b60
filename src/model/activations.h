// The intermediate values of one call. They are allocated once, for the largest chunk, and every layer overwrites them.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "duo/model.h"

namespace duo {

/// Owns one block of backend memory and the views into it. Values are float and row-major; n = tokens of the call.
/// Move-only.
class Activations {
 public:
  Activations() = default;
  static Result<Activations> Create(Backend* backend, const ModelConfig& config, int64_t max_tokens);
  static uint64_t Bytes(const ModelConfig& config, int64_t max_tokens);

  int64_t max_tokens = 0;
  int64_t n_tokens = 0;       // tokens of the last Forward
  float* x = nullptr;         // [n, hidden] residual stream
  float* normed = nullptr;    // [n, hidden]
  float* q = nullptr;         // [n, n_heads, head_dim]
  float* k = nullptr;         // [n, n_kv_heads, head_dim]
  float* v = nullptr;         // [n, n_kv_heads, head_dim]
  float* attended = nullptr;  // [n, n_heads, head_dim]
  float* gate = nullptr;      // [n, intermediate]
  float* up = nullptr;        // [n, intermediate]
  float* logits = nullptr;    // [kLogitRows, vocab]

  /// Max rows of logits computed at a time. It is small because a row has one float per token of the vocabulary.
  static constexpr int64_t kLogitRows = 16;

 private:
  DeviceMemoryPtr memory_;
};

/// Upper bounds of the calls of a forward pass of up to n_tokens tokens, its logits included.
CallBounds CallBoundsOf(const ModelConfig& config, int64_t n_tokens, ComputeType compute);

}  // namespace duo
