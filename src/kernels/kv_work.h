// The work of writing rows of K and V into caches: what a Backend is asked for, and what its CUDA launches take.
#pragma once

#include <cstdint>

#include "kernels/kv_codes.h"

namespace duo {

/// Copies rows of K or V of one head from activations into a cache, converting to its type.
struct StoreTask {
  const float* src = nullptr;  // row r: src + r * src_stride, head_dim floats
  int64_t src_stride = 0;
  uint8_t* dst = nullptr;  // the head's row 0
  int64_t row = 0;         // rows [row, row + n_rows) are written
  int64_t n_rows = 0;
  KvPart part = KvPart::kKeys;
  uint8_t unused[7] = {};  // in place of padding: CUDA compares the arguments of launches byte by byte
};

/// Copies rows of one head's K or V between caches of the same type.
struct CopyRowsTask {
  const uint8_t* src = nullptr;  // row 0 of the head, also in dst
  int64_t src_row = 0;
  uint8_t* dst = nullptr;
  int64_t dst_row = 0;
  int64_t n_rows = 0;
  KvPart part = KvPart::kKeys;
  uint8_t unused[7] = {};  // in place of padding, as above
};

}  // namespace duo
