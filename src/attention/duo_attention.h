// DuoAttention of one layer: every KV head attends to the cache that it belongs to (DuoAttention, section 2.3).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "kv/split_kv_cache.h"

namespace duo {

/// The kind of a token decides which window the streaming heads use for it.
enum class TokenKind : uint8_t {
  kPrompt,     // KvLayout::prefill_recent
  kGenerated,  // KvLayout::recent
};

/// One layer's q, k and v of consecutive tokens, after RoPE.
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
  float* lse = nullptr;  // [n_tokens, n_kv_heads * group] log of each query's sum of exp(score); may be null
};

/// Owns the scratch memory for a chunk's streaming keys and values in order of position. Sequences that take turns may
/// share one.
class DuoAttention {
 public:
  /// `backend` must outlive it. max_chunk: maximum number of tokens of one Run.
  DuoAttention(Backend* backend, int64_t max_chunk) : backend_(backend), max_chunk_(max_chunk) {}

  /// Makes one and allocates its scratch for this layout. kResourceExhausted.
  static Result<DuoAttention> Create(Backend* backend, const KvLayout& layout, int64_t max_chunk);

  /// Allocates the scratch for caches of this layout now, instead of in the first Run. kResourceExhausted.
  Status Fit(const KvLayout& layout);

  /// Stores k and v of the tokens after cache->len() in the caches of `layer`, and attends to every position that the
  /// mask shows. Call cache->Begin(n_tokens) before the first layer and Advance() after the last. kResourceExhausted.
  Status Run(const AttentionInput& input, int layer, SplitKvCache* cache);

  /// Like Run, but token t is the next token of the sequence caches[t]. The caches are distinct and have rows of one
  /// type.
  Status RunTogether(const AttentionInput& input, int layer, std::span<SplitKvCache* const> caches);

  /// Frees the scratch. The next Run over streaming heads allocates what its cache needs.
  void ReleaseScratch() { scratch_.reset(); }

  /// Bytes of scratch that Fit allocates, for the memory plan.
  static uint64_t ScratchBytes(const KvLayout& layout, int64_t max_chunk);

 private:
  Status Prefill(const AttentionInput& input, int layer, SplitKvCache* cache);
  /// The gathered rows of a streaming head in order of position: sinks, then positions [body_pos, pos) of the window
  /// before the chunk, then the chunk.
  struct Window {
    int64_t n_sink_rows;
    int64_t body_pos;
    int64_t n_rows;
  };
  Window WindowFor(const KvLayout& layout, int64_t pos, int64_t n_tokens, int64_t window) const;
  void GatherWindow(int layer, SplitKvCache* cache, const Window& window);
  void ScatterWindow(const AttentionInput& input, int layer, SplitKvCache* cache, const Window& window);

  /// The scratch rows of streaming head `index` of a layer.
  uint8_t* GatheredRows(const SplitKvCache& cache, int layer, KvPart part, int index) const;

  Backend* backend_;
  int64_t max_chunk_;
  DeviceMemoryPtr scratch_;
  std::vector<StoreTask> stores_;  // these keep their memory between calls: no allocation per token
  std::vector<CopyRowsTask> copies_;
  std::vector<DecodeHead> decode_heads_;
  std::vector<PrefillHead> prefill_heads_;
};

}  // namespace duo
