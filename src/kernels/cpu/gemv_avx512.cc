// GEMV with AVX-512 F and BW. Widened weights times float x; x is loaded once for kRows rows.
#include <immintrin.h>

#include "kernels/cpu/dense_kernels.h"

namespace duo::avx512 {
namespace {

#ifndef KR
#define KR 4
#endif
constexpr int kRows = KR;
constexpr int kLanes = 16;
// Accumulators per row: kRows x kChains additions in flight hide the latency of FMA. The number is the same for a
// single row, so that a row's sum has one order however the rows are split.
constexpr int kChains = 4;
constexpr int64_t kStep = kChains * kLanes;

inline __m512 LoadWide(const float* w, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, w); }
inline __m512 LoadWide(const bf16* w, __mmask16 mask) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, w));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline __m512 LoadWide(const f16* w, __mmask16 mask) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, w)); }
inline __m512 LoadWide(const float* w) { return _mm512_loadu_ps(w); }
inline __m512 LoadWide(const bf16* w) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline __m512 LoadWide(const f16* w) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)));
}

#ifndef PF
#define PF 0
#endif
template <typename T, int kN>
void DotRows(const T* w, const float* x, int64_t n, float* sums) {
  __m512 acc[kN][kChains];
  for (auto& row : acc) {
    for (auto& chain : row) chain = _mm512_setzero_ps();
  }
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    for (int r = 0; r < kN; ++r) {
#if PF
      for (size_t b = 0; b < kStep * sizeof(T); b += 64)
        _mm_prefetch(reinterpret_cast<const char*>(w + r * n + i) + PF + b, _MM_HINT_T0);
#endif
    }
    for (int c = 0; c < kChains; ++c) {
      const __m512 xi = _mm512_loadu_ps(x + i + c * kLanes);
      for (int r = 0; r < kN; ++r) acc[r][c] = _mm512_fmadd_ps(LoadWide(w + r * n + i + c * kLanes), xi, acc[r][c]);
    }
  }
  for (int c = 0; i < n; i += kLanes, ++c) {
    const int64_t left = n - i;
    const auto mask = static_cast<__mmask16>(left >= kLanes ? 0xffff : (1u << left) - 1);
    const __m512 xi = _mm512_maskz_loadu_ps(mask, x + i);
    for (int r = 0; r < kN; ++r) acc[r][c] = _mm512_fmadd_ps(LoadWide(w + r * n + i, mask), xi, acc[r][c]);
  }
  for (int r = 0; r < kN; ++r) {
    const __m512 low = _mm512_add_ps(acc[r][0], acc[r][1]);
    const __m512 high = _mm512_add_ps(acc[r][2], acc[r][3]);
    sums[r] = _mm512_reduce_add_ps(_mm512_add_ps(low, high));
  }
}

template <int kN>
void Store(const Gemv& p, int64_t row, const float* sums) {
  for (int r = 0; r < kN; ++r) {
    float sum = sums[r];
    if (p.bias != nullptr) sum += p.bias[row + r];
    p.y[row + r] = p.accumulate != 0 ? p.y[row + r] + sum : sum;
  }
}

template <typename T>
void Rows(const Gemv& p) {
  const T* w = static_cast<const T*>(p.w);
  float sums[kRows];
  int64_t row = p.row_begin;
  for (; row + kRows <= p.row_end; row += kRows) {
    DotRows<T, kRows>(w + row * p.n_in, p.x, p.n_in, sums);
    Store<kRows>(p, row, sums);
  }
  for (; row < p.row_end; ++row) {
    DotRows<T, 1>(w + row * p.n_in, p.x, p.n_in, sums);
    Store<1>(p, row, sums);
  }
}

}  // namespace

void GemvRows(const Gemv& p) {
  switch (p.w_type) {
    case DType::kF32: return Rows<float>(p);
    case DType::kBF16: return Rows<bf16>(p);
    case DType::kF16: return Rows<f16>(p);
  }
}

}  // namespace duo::avx512
