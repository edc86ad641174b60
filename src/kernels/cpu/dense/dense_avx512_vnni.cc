// Dense kernels with integer dot products: GEMV over int4 weights. Inputs are rounded to 15 bits per group of 32 and
// stored as two signed bytes of 8 and 7 bits. A group's sums are exact integers.
#include <immintrin.h>

#include "kernels/cpu/attention/code_products_avx512_vnni.h"
#include "kernels/cpu/dense/dense_table.h"
#include "kernels/cpu/dense/gemv4_loop.h"
#include "kernels/cpu/vec/vec_avx512.h"

namespace duo {
namespace {

struct DotGroups {
  using V = VecAvx512;
  using Codes = DotCodes<4>;
  // 64 inputs: high bytes, low bytes, then the step and -8 times the sum of each of the two groups.
  struct Piece {
    int8_t high[64];
    int8_t low[64];
    float step[2];
    int32_t offset[2];
  };
  static constexpr int kStreams = 2;

  static void Prepare(const float* x, int64_t n_in, void* out) {
    auto* piece = static_cast<Piece*>(out);
    for (int64_t at = 0; at < n_in; at += kInt4Inputs, ++piece) {
      for (int half = 0; half < 2; ++half) {
        const int64_t left = n_in - at - 32 * half;
        const float* from = x + at + 32 * half;
        const Grid<V> grid = Grid<V>::Of(from, left < 32 ? left : 32, 16383.0f);
        piece->step[half] = grid.step;
        const __m512i p = Round(Widened<V>::LoadUpTo(from, left), grid);
        const __m512i q = Round(Widened<V>::LoadUpTo(from + 16, left - 16), grid);
        piece->offset[half] = -8 * _mm512_reduce_add_epi32(_mm512_add_epi32(p, q));
        StoreParts(p, piece, 32 * half);
        StoreParts(q, piece, 32 * half + 16);
      }
    }
  }
  DUO_ALWAYS_INLINE __m512i Round(__m512 x, const Grid<V>& grid) {
    return grid.some ? _mm512_cvtps_epi32(_mm512_mul_ps(x, grid.inverse)) : _mm512_setzero_si512();
  }
  // x = 128 high + low, low in 0..127.
  DUO_ALWAYS_INLINE void StoreParts(__m512i x, Piece* piece, int at) {
    V::StoreBytes(piece->high + at, _mm512_srai_epi32(x, 7));
    V::StoreBytes(piece->low + at, _mm512_and_si512(x, _mm512_set1_epi32(127)));
  }

  template <int kN>
  DUO_ALWAYS_INLINE void Groups(const char* codes, size_t stride, const Piece& piece, int half, __m512* sums) {
    __m512i high[kN][2], low[kN][2];
    DUO_UNROLL for (int s = 0; s < kN; ++s) {
      high[s][0] = high[s][1] = low[s][1] = _mm512_setzero_si512();
      low[s][0] = _mm512_set1_epi32(piece.offset[half]);
    }
    DUO_UNROLL for (int word = 0; word < 4; ++word) {
      const char* h = reinterpret_cast<const char*>(piece.high) + 32 * half + 8 * word;
      const char* l = reinterpret_cast<const char*>(piece.low) + 32 * half + 8 * word;
      DUO_UNROLL for (int s = 0; s < kN; ++s) {
        __m512i code[2];
        Codes::SplitKeys(codes + s * stride + 64 * word, code);
        DUO_UNROLL for (int i = 0; i < 2; ++i) {
          high[s][i] = DotBytes(code[i], Codes::Broadcast(h + 4 * i), high[s][i]);
          low[s][i] = DotBytes(code[i], Codes::Broadcast(l + 4 * i), low[s][i]);
        }
      }
    }
    const __m512 step = V::Set(piece.step[half]);
    DUO_UNROLL for (int s = 0; s < kN; ++s) {
      const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(_mm512_add_epi32(high[s][0], high[s][1]), 7),
                                           _mm512_add_epi32(low[s][0], low[s][1]));
      sums[s] = V::Mul(_mm512_cvtepi32_ps(sum), step);
    }
  }
};

struct VecAvx512Vnni : VecAvx512 {
  // In assembly for the same reason as DotBytes.
  DUO_ALWAYS_INLINE Bits AddPairs(Bits sum, Bits a, Bits b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
  }
};

}  // namespace

constinit const DenseKernels kDenseAvx512Vnni = DenseKernelsOf<VecAvx512, DotGroups, VecAvx512Vnni>();

}  // namespace duo
