// Attention on one thread. The structs hold what a kernel needs to know; they know nothing about models or caches.
// They are plain old data, so instruction-set specific files may include this header.
//
// A query i attends to the keys j that the mask lets it see:
//   out_i = sum_j softmax_j(scale * q_i . k_j) v_j.
// Kernels compute it with the online softmax (Milakov and Gimelshein, arXiv:1805.02867). Statistics and sums are float.
#pragma once

#include <cstddef>
#include <cstdint>

#include "duo/dtype.h"
#include "kernels/mask.h"

namespace duo {

/// How q.k and p.v are multiplied.
enum class AttentionMath : uint8_t {
  kF32,   // keys and values are widened first; every product is of floats
  kBF16,  // bf16 products with a bf16 cache and integer products with a quantised one, where the CPU has them and a
          // level uses them (avx2 and up in decode, avx512_bf16 in prefill too); elsewhere as kF32
};

/// One decode step for one KV head over contiguous rows of its cache. Each K and V row is read once for all `group`
/// queries; a group of more than 16 heads reads the rows once for every 16.
///
/// The call updates the softmax state. So ranges of rows (sinks, ring pieces, parts of a long cache) can be processed
/// one after another, or by different threads and then merged (softmax_state.h).
///
/// Rows need only the alignment of their element type. Nothing outside the given rows is read (for codes: nothing
/// outside their blocks). The other rows of such a block may hold anything.
struct DecodeAttention {
  const float* q = nullptr;  // [group, head_dim], RoPE applied, not scaled
  const void* k = nullptr;   // row 0 of the head's cache: [row, head_dim] kv_type; kv_codes.h lays out codes
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
/// A retrieval head has n_sink_rows = 0 and body_pos = 0. A streaming head has its sinks, then the window before the
/// chunk, then the chunk itself. Tiles that the mask hides from the whole block are never touched.
struct PrefillAttention {
  const float* q = nullptr;  // token t, q head g of the group: q + t * q_stride + g * head_dim; RoPE applied
  int64_t q_stride = 0;      // floats between tokens
  int64_t q_pos = 0;         // absolute position of the first token
  int64_t n_tokens = 0;      // >= 1
  int group = 1;
  int head_dim = 0;         // even, 8..512
  const void* k = nullptr;  // row 0: [n_rows, head_dim] kv_type; kv_codes.h lays out codes
  const void* v = nullptr;
  int64_t n_rows = 0;
  int64_t n_sink_rows = 0;
  int64_t body_pos = 0;
  KvType kv_type = KvType::kBF16;
  AttentionMath math = AttentionMath::kBF16;
  LambdaMask mask;
  float scale = 1.0f;
  float* out = nullptr;     // token t, q head g: out + t * out_stride + g * head_dim
  int64_t out_stride = 0;   // floats between tokens
  float* lse = nullptr;     // token t, q head g: lse + t * lse_stride + g = log sum_j exp(scale q . k_j), or null
  int64_t lse_stride = 0;   // floats between tokens
  void* scratch = nullptr;  // PrefillScratchBytes(group, head_dim), 64-byte aligned, one per thread
};

/// Tokens that one PrefillAttention call should cover for best speed. Callers split chunks into such blocks.
int64_t PrefillBlockTokens(int group, int head_dim);
/// Scratch for a call with n_tokens <= PrefillBlockTokens(group, head_dim). It suffices for every implementation.
size_t PrefillScratchBytes(int group, int head_dim);

}  // namespace duo
