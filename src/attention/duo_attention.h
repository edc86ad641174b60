// DuoAttention of one layer: every KV head is served by the cache it belongs to (DuoAttention section 2.3).
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "kv/split_kv_cache.h"

namespace duo {

/// Which window the streaming heads use for these tokens.
enum class TokenKind : uint8_t {
  kPrompt,     // prefill_recent
  kGenerated,  // recent
};

/// One layer's projections of consecutive tokens, RoPE applied to q and k.
struct AttentionInput {
  const float* q = nullptr;  // [n_tokens, n_kv_heads * group, head_dim]
  const float* k = nullptr;  // [n_tokens, n_kv_heads, head_dim]
  const float* v = nullptr;  // [n_tokens, n_kv_heads, head_dim]
  int64_t n_tokens = 1;
  int group = 1;
  float scale = 1.0f;
  TokenKind kind = TokenKind::kPrompt;
  ComputeType compute = ComputeType::kBF16;
  float* out = nullptr;  // [n_tokens, n_kv_heads * group, head_dim]
  float* lse = nullptr;  // [n_tokens, n_kv_heads * group] log of each query's sum of exp(score), or null
};

/// Holds the scratch in which a chunk's streaming keys and values stand in order of position. One per session.
class DuoAttention {
 public:
  /// `backend` must outlive it. max_chunk: most tokens of one Run.
  static Result<DuoAttention> Create(Backend* backend, const KvLayout& layout, int64_t max_chunk);

  /// Stores k and v of the tokens behind cache->len() in `layer`'s caches and attends to everything the mask shows.
  /// cache->Begin(n_tokens) must have been called; Advance() comes after the last layer. kResourceExhausted.
  Status Run(const AttentionInput& input, int layer, SplitKvCache* cache);

  /// Scratch that Create allocates, for the memory plan.
  static uint64_t ScratchBytes(const KvLayout& layout, int64_t max_chunk);

 private:
  Status Decode(const AttentionInput& input, int layer, SplitKvCache* cache);
  Status Prefill(const AttentionInput& input, int layer, SplitKvCache* cache);
  /// Rows of a streaming head in order of position: sinks, the window before the chunk, the chunk.
  struct Window {
    int64_t n_sink_rows;
    int64_t body_pos;
    int64_t n_rows;
  };
  Window WindowFor(const KvLayout& layout, int64_t pos, int64_t n_tokens, int64_t window) const;
  void GatherWindow(int layer, SplitKvCache* cache, const Window& window);
  void ScatterWindow(const AttentionInput& input, int layer, SplitKvCache* cache, const Window& window);

  uint8_t* gathered_k(int index) const { return scratch_->data() + static_cast<size_t>(index) * head_bytes_; }
  uint8_t* gathered_v(int index) const {
    return scratch_->data() + static_cast<size_t>(max_streaming_ + index) * head_bytes_;
  }

  Backend* backend_ = nullptr;
  DeviceMemoryPtr scratch_;
  int max_streaming_ = 0;          // most streaming heads of any layer
  size_t head_bytes_ = 0;          // scratch of one head's K
  std::vector<StoreTask> stores_;  // kept between calls: no allocation per token
  std::vector<CopyRowsTask> copies_;
  std::vector<DecodeHead> decode_heads_;
  std::vector<PrefillHead> prefill_heads_;
};

}  // namespace duo
