// A borrowed, read-only tensor: pointer, type, shape. Row-major and contiguous.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "duo/dtype.h"

namespace duo {

/// Does not own its bytes. The function that returns a view says how long they live.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  std::array<int64_t, 4> shape{};  // shape[0..rank-1]; the last dimension is contiguous

  int64_t size() const {  // elements
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  size_t bytes() const { return size() * DTypeBytes(dtype); }
  bool empty() const { return data == nullptr; }
};

}  // namespace duo
