// Replaces src/kernels/cuda/ptx.cuh, which says what each instruction does.
#pragma once

#include <cmath>
#include <cstring>

#include "cuda_on_host/fibers.h"
#include "kernels/cuda/device_math.cuh"

namespace duo {

struct alignas(16) Chunk {
  uint32_t word[4];
};

inline void Mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const cuda_on_host::Exchange all = cuda_on_host::ExchangeInWarp(mine, sizeof mine);
  const int g = cuda_on_host::Lane() / 4, t = cuda_on_host::Lane() % 4;
  const auto word = [&](int lane, int i) {
    uint32_t value;
    std::memcpy(&value, all.of(lane) + 4 * i, 4);
    return value;
  };
  for (int i = 0; i < 4; ++i) {
    const int high = i / 2, column = 2 * t + i % 2;
    for (int k = 0; k < 4; ++k) {
      for (int half = 0; half < 2; ++half) {
        const uint32_t x = word(4 * g + k, high + 2 * half), y = word(4 * column + k, 4 + half);
        c[i] += LowFloat(x) * LowFloat(y) + HighFloat(x) * HighFloat(y);
      }
    }
  }
}

template <bool kTransposed>
inline void LoadMatrices(uint32_t out[4], const void* row) {
  cuda_on_host::CheckAligned(row, sizeof(Chunk));
  const cuda_on_host::Exchange all = cuda_on_host::ExchangeInWarp(&row, sizeof row);
  const int g = cuda_on_host::Lane() / 4, t = cuda_on_host::Lane() % 4;
  const auto number = [&](int matrix, int r, int column) {
    const uint16_t* from;
    std::memcpy(&from, all.of(8 * matrix + r), sizeof from);
    return uint32_t{from[column]};
  };
  for (int i = 0; i < 4; ++i) {
    out[i] = kTransposed ? number(i, 2 * t, g) | number(i, 2 * t + 1, g) << 16
                         : number(i, g, 2 * t) | number(i, g, 2 * t + 1) << 16;
  }
}

inline void CopyAsync(void* to, const void* from, bool some = true) {
  static const Chunk kZeros = {};
  cuda_on_host::CheckAligned(to, sizeof(Chunk));
  cuda_on_host::CheckAligned(from, sizeof(Chunk));
  cuda_on_host::CopyAsync(to, some ? from : &kZeros, sizeof(Chunk));
}
inline void CommitCopies() { cuda_on_host::CommitCopies(); }
template <int kLeft>
inline void WaitForCopies() {
  cuda_on_host::WaitForCopies(kLeft);
}

inline float Exp2(float x) { return std::exp2(x); }

inline uint32_t SubtractBf16(uint32_t a, uint32_t b) {
  return PackBf16(LowFloat(a) - LowFloat(b), HighFloat(a) - HighFloat(b));
}

}  // namespace duo
