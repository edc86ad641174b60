// Storing (with conversion) and copying rows of K and V in caches on a GPU, with the contracts of Backend::StoreRows
// and CopyRows.
#pragma once

#include <cstdint>
#include <span>

#include "duo/result.h"
#include "kernels/cuda/stream.h"
#include "kernels/kv_codes.h"

namespace duo {

struct CudaStoreTask {
  const float* src;    // row r: src + r * src_stride
  int64_t src_stride;  // floats
  uint8_t* dst;        // the head's row 0
  int64_t row;         // rows [row, row + n_rows) are written
  int64_t n_rows;
  KvPart part;
  uint8_t unused[7] = {};  // in place of padding, which could hold anything
};

struct CudaCopyRowsTask {
  const uint8_t* src;  // row 0 of the source
  uint8_t* dst;        // row 0 of the destination
  int64_t src_row;
  int64_t dst_row;
  int64_t n_rows;
  KvPart part;
  uint8_t unused[7] = {};  // in place of padding, which could hold anything
};

/// Quantising gives the same codes as kernels/kv_codes.cc.
Status CudaStoreRows(CudaStream stream, std::span<const CudaStoreTask> tasks, int head_dim, KvType type);
Status CudaCopyRows(CudaStream stream, std::span<const CudaCopyRowsTask> tasks, int head_dim, KvType type);

}  // namespace duo
