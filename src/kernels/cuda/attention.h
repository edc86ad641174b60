// Attention on a GPU: the two operations of kernels/attention.h, for all heads of a layer at once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "duo/result.h"
#include "kernels/attention_work.h"
#include "kernels/cuda/stream.h"

namespace duo {

/// How a decode step is cut along the sequence into pieces. Each piece is one block of threads. So streaming heads and
/// retrieval heads of any length fill the device in one launch.
struct CudaDecodePlan {
  int64_t rows_per_piece = 0;     // a multiple of 16
  std::vector<int64_t> n_pieces;  // per head
  int64_t max_pieces = 0;         // the largest of n_pieces
  int64_t total_pieces = 0;
};
CudaDecodePlan PlanCudaDecode(std::span<const DecodeHead> heads, int n_processors);

/// Floats of scratch for the partial states of a plan's pieces.
int64_t CudaDecodeStateFloats(int64_t total_pieces, int group, int head_dim);
/// The maximum of total_pieces in a plan for n_heads.
int64_t MostCudaDecodePieces(int64_t n_heads, int n_processors);

/// `states`: CudaDecodeStateFloats floats. `counters`: CudaDecodeCounters zeros, one per head and 16 of its queries.
/// They are zero again afterwards.
Status CudaDecodeAttention(CudaStream stream, const AttentionShape& shape, std::span<const DecodeHead> heads,
                           int n_processors, float* states, int32_t* counters);
int64_t CudaDecodeCounters(int64_t n_heads, int group);

Status CudaPrefillAttention(CudaStream stream, const AttentionShape& shape, std::span<const PrefillHead> heads);

}  // namespace duo
