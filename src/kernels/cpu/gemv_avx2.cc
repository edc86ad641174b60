// GEMV with AVX2, FMA and F16C: weights are widened in registers and multiplied by the float x.
#include <immintrin.h>

#include "kernels/cpu/dense_kernels.h"

namespace duo::avx2 {
namespace {

// Two rows at once from two distant streams; gemv_avx512.cc has the reasons and the measurements.
constexpr int kStreams = 2;
constexpr int64_t kPrefetchBytes = 4096;
constexpr int kLanes = 8;
// kStreams x kChains accumulators and the operands fit the 16 registers. The order of a row's sum is the same whether
// or not another row is computed with it.
constexpr int kChains = 4;
constexpr int64_t kStep = kChains * kLanes;

inline __m128i Load8(const void* w) { return _mm_loadu_si128(static_cast<const __m128i*>(w)); }

inline __m256 LoadWide(const float* w) { return _mm256_loadu_ps(w); }
inline __m256 LoadWide(const bf16* w) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(Load8(w)), 16));
}
inline __m256 LoadWide(const f16* w) { return _mm256_cvtph_ps(Load8(w)); }

// The first `left` < 8 elements, zeros behind them; memory behind them is not touched.
template <typename T>
inline __m256 LoadWideTail(const T* w, int64_t left) {
  T padded[kLanes] = {};
  for (int64_t i = 0; i < left; ++i) padded[i] = w[i];
  return LoadWide(padded);
}

template <typename T>
inline void PrefetchStep(const T* w) {
  const char* ahead = reinterpret_cast<const char*>(w) + kPrefetchBytes;
  for (int64_t b = 0; b < kStep * static_cast<int64_t>(sizeof(T)); b += 64) _mm_prefetch(ahead + b, _MM_HINT_T0);
}

inline float Sum(__m256 v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

// sums[s] = row s . x, row s at w + s * stride.
template <typename T, int kN>
inline void DotRows(const T* w, int64_t stride, const float* x, int64_t n, float* sums) {
  __m256 acc[kN][kChains];
  for (auto& row : acc) {
    for (auto& chain : row) chain = _mm256_setzero_ps();
  }
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    for (int s = 0; s < kN; ++s) PrefetchStep(w + s * stride + i);
    for (int c = 0; c < kChains; ++c) {
      const int64_t at = i + c * kLanes;
      const __m256 xi = _mm256_loadu_ps(x + at);
      for (int s = 0; s < kN; ++s) acc[s][c] = _mm256_fmadd_ps(LoadWide(w + s * stride + at), xi, acc[s][c]);
    }
  }
  for (int c = 0; c < kChains; ++c) {
    const int64_t at = i + c * kLanes;
    if (at >= n) break;
    const int64_t left = n - at;
    const __m256 xi = left >= kLanes ? _mm256_loadu_ps(x + at) : LoadWideTail(x + at, left);
    for (int s = 0; s < kN; ++s) {
      const T* from = w + s * stride + at;
      acc[s][c] = _mm256_fmadd_ps(left >= kLanes ? LoadWide(from) : LoadWideTail(from, left), xi, acc[s][c]);
    }
  }
  for (int s = 0; s < kN; ++s) {
    sums[s] = Sum(_mm256_add_ps(_mm256_add_ps(acc[s][0], acc[s][1]), _mm256_add_ps(acc[s][2], acc[s][3])));
  }
}

inline void Store(const Gemv& p, int64_t row, float sum) {
  if (p.bias != nullptr) sum += p.bias[row];
  p.y[row] = p.accumulate != 0 ? p.y[row] + sum : sum;
}

template <typename T>
void Rows(const Gemv& p) {
  const T* w = static_cast<const T*>(p.w);
  const int64_t per_stream = (p.row_end - p.row_begin) / kStreams;
  float sums[kStreams];
  for (int64_t o = p.row_begin; o < p.row_begin + per_stream; ++o) {
    DotRows<T, kStreams>(w + o * p.n_in, per_stream * p.n_in, p.x, p.n_in, sums);
    for (int s = 0; s < kStreams; ++s) Store(p, o + s * per_stream, sums[s]);
  }
  for (int64_t o = p.row_begin + kStreams * per_stream; o < p.row_end; ++o) {
    DotRows<T, 1>(w + o * p.n_in, 0, p.x, p.n_in, sums);
    Store(p, o, sums[0]);
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

}  // namespace duo::avx2
