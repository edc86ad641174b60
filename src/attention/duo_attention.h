// DuoAttention of one layer: every KV head is served by the cache it belongs to (DuoAttention section 2.3).
#pragma once

#include <cstdint>
#include <span>
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

/// Holds the scratch in which a chunk's streaming keys and values stand in order of position. Sequences that take turns
/// may share one.
class DuoAttention {
 public:
  /// `backend` must outlive it. max_chunk: most tokens of one Run.
  DuoAttention(Backend* backend, int64_t max_chunk) : backend_(backend), max_chunk_(max_chunk) {}

  /// One that fits the layout. kResourceExhausted.
  static Result<DuoAttention> Create(Backend* backend, const KvLayout& layout, int64_t max_chunk);

  /// Scratch for caches of this layout, now instead of in the first Run over one. kResourceExhausted.
  Status Fit(const KvLayout& layout);

  /// Stores k and v of the tokens behind cache->len() in `layer`'s caches and attends to everything the mask shows.
  /// cache->Begin(n_tokens) must have been called; Advance() comes after the last layer. kResourceExhausted.
  Status Run(const AttentionInput& input, int layer, SplitKvCache* cache);

  /// The same for n_tokens tokens of which token t is the next one of the sequence caches[t]. All different, with rows
  /// of one type.
  Status RunTogether(const AttentionInput& input, int layer, std::span<SplitKvCache* const> caches);

  /// Gives the scratch back; the next Run over streaming heads allocates what its cache needs.
  void ReleaseScratch() { scratch_.reset(); }

  /// Scratch that Fit allocates, for the memory plan.
  static uint64_t ScratchBytes(const KvLayout& layout, int64_t max_chunk);

 private:
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

  /// Scratch of streaming head `index` of a layer.
  uint8_t* GatheredRows(const SplitKvCache& cache, int layer, KvPart part, int index) const;

  Backend* backend_;
  int64_t max_chunk_;
  DeviceMemoryPtr scratch_;
  std::vector<StoreTask> stores_;  // kept between calls: no allocation per token
  std::vector<CopyRowsTask> copies_;
  std::vector<DecodeHead> decode_heads_;
  std::vector<PrefillHead> prefill_heads_;
};

}  // namespace duo
