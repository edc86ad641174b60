// The intermediate values of one call: allocated once for the largest chunk, overwritten by every layer.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "duo/model.h"

namespace duo {

/// Views into one block of backend memory; float, row-major, n = tokens of the call. Owner; move-only.
class Activations {
 public:
  Activations() = default;
  static Result<Activations> Create(Backend* backend, const ModelConfig& config, int64_t max_tokens);
  static uint64_t Bytes(const ModelConfig& config, int64_t max_tokens);

  int64_t max_tokens = 0;
  int64_t n_tokens = 0;       // of the last Forward
  float* x = nullptr;         // [n, hidden] residual stream
  float* normed = nullptr;    // [n, hidden]
  float* q = nullptr;         // [n, n_heads, head_dim]
  float* k = nullptr;         // [n, n_kv_heads, head_dim]
  float* v = nullptr;         // [n, n_kv_heads, head_dim]
  float* attended = nullptr;  // [n, n_heads, head_dim]
  float* gate = nullptr;      // [n, intermediate]
  float* up = nullptr;        // [n, intermediate]
  float* logits = nullptr;    // [kLogitRows, vocab]

  /// Rows of logits computed at a time: a vocabulary row is large.
  static constexpr int64_t kLogitRows = 16;

 private:
  DeviceMemoryPtr memory_;
};

/// The largest calls of a forward pass of up to n tokens and of its logits.
CallBounds CallBoundsOf(const ModelConfig& config, int64_t n_tokens, ComputeType compute);

}  // namespace duo
