// Attention on one thread: what a kernel needs to know, and nothing about models or caches.
// Plain old data: instruction-set specific files may include it.
//
// out_i = sum_j softmax_j(scale * q_i . k_j) v_j over the keys that the mask lets query i see, computed with the online
// softmax (Milakov and Gimelshein, arXiv:1805.02867): statistics are float, accumulation is float.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/dtype.h"
#include "kernels/mask.h"

namespace duo {

/// How q.k and p.v are multiplied.
enum class AttentionMath : uint8_t {
  kF32,   // every product of floats; keys and values are widened first
  kBF16,  // products of bf16 numbers with a bf16 cache, and of integers with a quantised one, where the CPU has them
          // and a level uses them (avx2 and up in decode, avx512_bf16 in prefill too)
};

/// One decode step's work for one KV head over contiguous rows of its cache: each K and V row is read once for all
/// `group` queries. Updates the softmax state, so that ranges (sinks, ring pieces, parts of a long cache) can be
/// processed one after another or by different threads and merged (softmax_state.h). Groups above 16 heads read the
/// rows once for every 16. No alignment is asked beyond that of the element types; nothing outside the given rows
/// (of codes: outside their blocks) is read, and what other rows of a block hold does not matter.
struct DecodeAttention {
  const float* q = nullptr;  // [group, head_dim], RoPE applied, not scaled
  const void* k = nullptr;   // row 0 of the head's cache: [row, head_dim] kv_type; of codes as kv_codes.h lays them out
  const void* v = nullptr;
  int64_t first_row = 0;  // rows [first_row, first_row + n_rows) are attended to
  int64_t n_rows = 0;
  int group = 1;     // q heads of this KV head, any number >= 1
  int head_dim = 0;  // even, 8..512
  KvType kv_type = KvType::kBF16;
  AttentionMath math = AttentionMath::kBF16;
  float scale = 1.0f;    // > 0: 1 / sqrt(head_dim)
  float* max = nullptr;  // [group] in/out: largest scaled score so far, -inf at the start
  float* sum = nullptr;  // [group] in/out: sum of exp(score - max), 0 at the start
  float* acc = nullptr;  // [group, head_dim] in/out: sum of exp(score - max) * v, 0 at the start
};

/// Prefill of a block of consecutive tokens for one KV head and its query group.
/// Key rows are in order of position: row r has position r for r < n_sink_rows, else body_pos + (r - n_sink_rows).
/// (A retrieval head: n_sink_rows = 0, body_pos = 0. A streaming head: its sinks, then the window before the chunk and
/// the chunk itself.) Tiles that the mask empties for the whole block are never touched.
struct PrefillAttention {
  const float* q = nullptr;  // token t, q head g of the group: q + t * q_stride + g * head_dim; RoPE applied
  int64_t q_stride = 0;      // floats between tokens
  int64_t q_pos = 0;         // absolute position of the first token
  int64_t n_tokens = 0;      // >= 1
  int group = 1;
  int head_dim = 0;         // even, 8..512
  const void* k = nullptr;  // row 0: [n_rows, head_dim] kv_type; of codes as kv_codes.h lays them out
  const void* v = nullptr;
  int64_t n_rows = 0;
  int64_t n_sink_rows = 0;
  int64_t body_pos = 0;
  KvType kv_type = KvType::kBF16;
  AttentionMath math = AttentionMath::kBF16;
  LambdaMask mask;
  float scale = 1.0f;
  float* out = nullptr;    // token t, q head g: out + t * out_stride + g * head_dim
  int64_t out_stride = 0;  // floats between tokens
  float* lse = nullptr;  // token t, q head g: lse + t * lse_stride + g = log sum_j exp(scale q . k_j); null: not wanted
  int64_t lse_stride = 0;   // floats between tokens
  void* scratch = nullptr;  // PrefillScratchBytes(group, head_dim), 64-byte aligned, one per thread
};

/// Tokens that one PrefillAttention call should cover for best speed (callers split chunks into such blocks).
int64_t PrefillBlockTokens(int group, int head_dim);
/// Scratch for a call with n_tokens <= PrefillBlockTokens(group, head_dim), for every implementation.
size_t PrefillScratchBytes(int group, int head_dim);

}  // namespace duo
