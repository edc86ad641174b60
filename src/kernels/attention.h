// Attention on one thread, for the work that attention_work.h describes.
// Plain old data, so instruction-set specific files may include this header.
//
// A query i attends to the keys j that the mask lets it see:
//   out_i = sum_j softmax_j(scale * q_i . k_j) v_j.
// Kernels compute it with the online softmax (Milakov and Gimelshein, arXiv:1805.02867). Statistics and sums are float.
//
// Products of bf16 numbers and integers (AttentionShape::compute) are used by avx2 and up in decode, and by avx512_bf16
// in prefill. Other levels always multiply floats.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_work.h"

namespace duo {

/// The online softmax states of one KV head's queries (softmax_state.h).
struct SoftmaxStates {
  float* max = nullptr;  // [group] largest scaled score so far, -inf at the start
  float* sum = nullptr;  // [group] sum of exp(score - max), 0 at the start
  float* acc = nullptr;  // [group, head_dim] sum of exp(score - max) * v, 0 at the start
};

/// A part of one head's decode step. Each K and V row is read once for all `group` queries; a group of more than 16
/// heads reads the rows once for every 16.
///
/// The call updates the softmax states. So ranges of rows (sinks, ring pieces, parts of a long cache) can be processed
/// one after another, or by different threads and then merged.
///
/// Rows need only the alignment of their element type. Nothing outside the given rows is read (for codes: nothing
/// outside their blocks). The other rows of such a block may hold anything.
struct DecodeAttention {
  AttentionShape shape;
  DecodeHead head;  // its ranges, out and lse are not used
  RowRange rows;
  SoftmaxStates states;
};

/// Prefill of a block of consecutive tokens for one KV head and its query group. Tiles that the mask hides from the
/// whole block are never touched.
struct PrefillAttention {
  AttentionShape shape;     // of the block: n_tokens from q_pos on
  PrefillHead head;         // its q, out and lse begin at the block's first token
  void* scratch = nullptr;  // PrefillScratchBytes(group, head_dim), 64-byte aligned, one per thread
};

/// Tokens that one PrefillAttention call should cover for best speed. Callers split chunks into such blocks.
int64_t PrefillBlockTokens(int group, int head_dim);
/// Scratch for a call with n_tokens <= PrefillBlockTokens(group, head_dim). It suffices for every implementation.
size_t PrefillScratchBytes(int group, int head_dim);

}  // namespace duo
