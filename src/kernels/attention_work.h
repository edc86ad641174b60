// The work of attention: what a Backend is asked for, and what its CPU kernels and its CUDA launches take.
// Plain old data without padding between the fields of a head, so that instruction-set specific files may include this
// header and CUDA may copy heads to the device as bytes.
#pragma once

#include <cstdint>

#include "duo/dtype.h"
#include "kernels/mask.h"

namespace duo {

/// The parameters that all heads of one attention call share.
struct AttentionShape {
  int group = 1;           // q heads of a KV head, any number >= 1
  int head_dim = 0;        // even, 8..512
  int64_t q_stride = 0;    // floats between tokens of q and of out
  int64_t lse_stride = 0;  // floats between tokens of lse
  int64_t q_pos = 0;       // absolute position of the first token
  int64_t n_tokens = 1;    // >= 1
  KvType kv_type = KvType::kBF16;
  /// How q.k and p.v are multiplied. With kF32 keys and values are widened first, and every product is of floats. With
  /// any other type a kernel may round to bf16 numbers, or to integers for codes, where that is faster.
  ComputeType compute = ComputeType::kBF16;
  float scale = 1.0f;  // > 0: 1 / sqrt(head_dim)
};

/// Rows [begin, end) of a cache.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
};

/// One KV head of a decode step. Its queries attend to one range of rows, or to two where a ring wraps around.
struct DecodeHead {
  const float* q = nullptr;    // [group, head_dim], RoPE applied, not scaled
  const uint8_t* k = nullptr;  // row 0 of the head: [row, head_dim], or blocks of codes (kernels/kv_codes.h)
  const uint8_t* v = nullptr;
  RowRange ranges[2] = {};  // either may be empty
  float* out = nullptr;     // [group, head_dim]
  float* lse = nullptr;     // [group] log of the sum of exp(score), or null
};

/// One KV head of a prefill step. Its rows are in order of position. A retrieval head has n_sink_rows = 0 and
/// body_pos = 0. A streaming head has its sinks, then the window before the chunk, then the chunk itself.
struct PrefillHead {
  const float* q = nullptr;    // token t: [group, head_dim] at q + t * q_stride, RoPE applied, not scaled
  const uint8_t* k = nullptr;  // row 0 of n_rows: [row, head_dim], or blocks of codes (kernels/kv_codes.h)
  const uint8_t* v = nullptr;
  int64_t n_rows = 0;
  int64_t n_sink_rows = 0;  // row r < n_sink_rows has position r
  int64_t body_pos = 0;     // row r >= n_sink_rows has position body_pos + (r - n_sink_rows)
  LambdaMask mask;
  float* out = nullptr;  // token t: out + t * q_stride
  float* lse = nullptr;  // token t: [group] at lse + t * lse_stride, or null
};

}  // namespace duo
