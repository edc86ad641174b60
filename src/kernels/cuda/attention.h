// Attention on a GPU: the two operations of kernels/attention.h, for all heads of a layer at once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "duo/dtype.h"
#include "duo/result.h"
#include "kernels/cuda/stream.h"
#include "kernels/mask.h"

namespace duo {

/// One KV head of a decode step. It attends to rows [begin[i], end[i]) of its cache, i < 2. A range may be empty.
struct CudaDecodeHead {
  const float* q;    // [group, head_dim]
  const uint8_t* k;  // row 0 of the head, any cache type (docs/formats.md)
  const uint8_t* v;
  float* out;  // [group, head_dim]
  float* lse;  // [group] or null
  int64_t begin[2];
  int64_t end[2];
};

struct CudaPrefillHead {
  const float* q;  // token t: q + t * q_stride, [group, head_dim]
  const uint8_t* k;
  const uint8_t* v;
  float* out;           // token t: out + t * q_stride
  float* lse;           // token t: lse + t * lse_stride, or null
  int64_t n_rows;       // in order of position
  int64_t n_sink_rows;  // row r has position r for r < n_sink_rows, else body_pos + (r - n_sink_rows)
  int64_t body_pos;
  LambdaMask mask;
};

/// Parameters that the heads of a call share.
struct CudaAttentionShape {
  int group = 1;
  int head_dim = 0;  // even, 8..512
  int64_t q_stride = 0;
  int64_t lse_stride = 0;
  int64_t q_pos = 0;
  int64_t n_tokens = 1;
  KvType kv_type = KvType::kBF16;
  bool exact = false;  // true: products of floats; false: of bf16 numbers where that is faster
  float scale = 1.0f;
};

/// How a decode step is cut along the sequence into pieces. Each piece is one block of threads. So streaming heads and
/// retrieval heads of any length fill the device in one launch.
struct CudaDecodePlan {
  int64_t rows_per_piece = 0;     // a multiple of 16
  std::vector<int64_t> n_pieces;  // per head
  int64_t max_pieces = 0;         // the largest of n_pieces
  int64_t total_pieces = 0;
};
CudaDecodePlan PlanCudaDecode(std::span<const CudaDecodeHead> heads, int n_processors);

/// Floats of scratch for the partial states of a plan's pieces.
int64_t CudaDecodeStateFloats(int64_t total_pieces, int group, int head_dim);
/// The maximum of total_pieces in a plan for n_heads.
int64_t MostCudaDecodePieces(int64_t n_heads, int n_processors);

/// `states`: CudaDecodeStateFloats floats. `counters`: CudaDecodeCounters zeros, one per head and 16 of its queries.
/// They are zero again afterwards.
Status CudaDecodeAttention(CudaStream stream, const CudaAttentionShape& shape, std::span<const CudaDecodeHead> heads,
                           int n_processors, float* states, int32_t* counters);
int64_t CudaDecodeCounters(int64_t n_heads, int group);

Status CudaPrefillAttention(CudaStream stream, const CudaAttentionShape& shape, std::span<const CudaPrefillHead> heads);

}  // namespace duo
