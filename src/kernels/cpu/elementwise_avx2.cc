// Element-wise kernels with AVX2, FMA and F16C. Memory outside the ranges is not touched.
#include <immintrin.h>

#include "kernels/cpu/dense_kernels.h"

namespace duo::avx2 {
namespace {

constexpr int64_t kLanes = 8;

// Ones in the first `left` lanes.
inline __m256i MaskOf(int64_t left) {
  const int n = static_cast<int>(left >= kLanes ? kLanes : left);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// 2^n for integers -126 <= n <= 127, given as int lanes.
inline __m256 PowerOfTwo(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

// As elementwise_avx512.cc: 2^n exp(r) with Taylor's polynomial of degree 7, under 2 ulp. 2^n in two factors, because
// n reaches from -150 (subnormal results) to 128 (overflow to infinity).
inline __m256 Exp(__m256 x) {
  x = _mm256_min_ps(_mm256_set1_ps(89.0f), _mm256_max_ps(_mm256_set1_ps(-104.0f), x));  // NaN passes
  const __m256 n =
      _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e430p-1f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-0x1.05c610p-29f), r);
  __m256 p = _mm256_set1_ps(1.0f / 5040);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i first = _mm256_srai_epi32(whole, 1);
  p = _mm256_mul_ps(p, PowerOfTwo(first));
  return _mm256_mul_ps(p, PowerOfTwo(_mm256_sub_epi32(whole, first)));
}

// The upper half of each float in the lower 16 bits of its lane, rounded to nearest even; NaN stays NaN.
inline __m256i RoundedBits(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}

inline __m128i Pack16(__m256i lanes) {
  return _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
}

inline float SumOfSquares(const float* x, int64_t n) {
  __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int64_t i = 0, c = 0; i < n; i += kLanes, c = (c + 1) & 3) {
    const __m256 v = _mm256_maskload_ps(x + i, MaskOf(n - i));
    acc[c] = _mm256_fmadd_ps(v, v, acc[c]);
  }
  const __m256 eight = _mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3]));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

}  // namespace

void RmsNormRows(const RmsNorm& p) {
  for (int64_t r = 0; r < p.n_rows; ++r) {
    const float* x = p.x + r * p.x_stride;
    float* out = p.out + r * p.out_stride;
    const float mean = SumOfSquares(x, p.dim) / static_cast<float>(p.dim);
    const __m256 scale = _mm256_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + p.eps))));
    for (int64_t i = 0; i < p.dim; i += kLanes) {
      const __m256i mask = MaskOf(p.dim - i);
      const __m256 scaled = _mm256_mul_ps(_mm256_maskload_ps(x + i, mask), scale);
      _mm256_maskstore_ps(out + i, mask, _mm256_mul_ps(scaled, _mm256_maskload_ps(p.weight + i, mask)));
    }
  }
}

void RopeTokens(const Rope& p) {
  const int64_t half = p.head_dim / 2;
  for (int64_t t = 0; t < p.n_tokens; ++t) {
    for (int64_t g = 0; g < p.n_heads; ++g) {
      float* low = p.x + t * p.x_stride + g * p.head_dim;
      float* high = low + half;
      for (int64_t d = 0; d < half; d += kLanes) {
        const __m256i mask = MaskOf(half - d);
        const __m256 a = _mm256_maskload_ps(low + d, mask), b = _mm256_maskload_ps(high + d, mask);
        const __m256 c = _mm256_maskload_ps(p.cos + t * half + d, mask);
        const __m256 s = _mm256_maskload_ps(p.sin + t * half + d, mask);
        _mm256_maskstore_ps(low + d, mask, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_maskstore_ps(high + d, mask, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
      }
    }
  }
}

void SwiGluRange(const SwiGlu& p) {
  const __m256 one = _mm256_set1_ps(1.0f);
  for (int64_t i = 0; i < p.n; i += kLanes) {
    const __m256i mask = MaskOf(p.n - i);
    const __m256 gate = _mm256_maskload_ps(p.gate + i, mask), up = _mm256_maskload_ps(p.up + i, mask);
    const __m256 silu = _mm256_div_ps(gate, _mm256_add_ps(one, Exp(_mm256_sub_ps(_mm256_setzero_ps(), gate))));
    _mm256_maskstore_ps(p.out + i, mask, _mm256_mul_ps(silu, up));
  }
}

void AddRange(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const __m256i mask = MaskOf(n - i);
    _mm256_maskstore_ps(x + i, mask, _mm256_add_ps(_mm256_maskload_ps(x + i, mask), _mm256_maskload_ps(y + i, mask)));
  }
}

void F32ToBf16(const float* x, bf16* out, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), Pack16(RoundedBits(_mm256_loadu_ps(x + i))));
  }
  if (i == n) return;
  bf16 tail[kLanes];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(tail), Pack16(RoundedBits(_mm256_maskload_ps(x + i, MaskOf(n - i)))));
  for (int64_t k = 0; i + k < n; ++k) out[i + k] = tail[k];
}

void RoundToBf16(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const __m256i mask = MaskOf(n - i);
    const __m256i bits = RoundedBits(_mm256_maskload_ps(x + i, mask));
    _mm256_maskstore_ps(out + i, mask, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
  }
}

void Widen(const void* x, DType type, float* out, int64_t n) {
  if (type == DType::kF32) {
    const auto* from = static_cast<const float*>(x);
    for (int64_t i = 0; i < n; ++i) out[i] = from[i];
    return;
  }
  const auto* from = static_cast<const uint16_t*>(x);
  for (int64_t i = 0; i < n; i += kLanes) {
    uint16_t tail[kLanes] = {};
    const uint16_t* source = from + i;
    if (n - i < kLanes) {
      for (int64_t k = 0; k < n - i; ++k) tail[k] = from[i + k];
      source = tail;
    }
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
    const __m256 wide = type == DType::kF16 ? _mm256_cvtph_ps(bits)
                                            : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    _mm256_maskstore_ps(out + i, MaskOf(n - i), wide);
  }
}

// Four distant streams and a software prefetch, as in elementwise_avx512.cc.
double ReadSum(const void* x, size_t bytes) {
  constexpr size_t kStreams = 4, kLine = 64, kAhead = 1024;
  const char* from = static_cast<const char*>(x);
  const size_t part = bytes / kStreams / kLine * kLine;
  __m256i acc[kStreams][2];
  for (auto& stream : acc) stream[0] = stream[1] = _mm256_setzero_si256();
  for (size_t i = 0; i < part; i += kLine) {
    for (size_t s = 0; s < kStreams; ++s) {
      const char* line = from + s * part + i;
      _mm_prefetch(line + kAhead, _MM_HINT_T0);
      acc[s][0] = _mm256_add_epi64(acc[s][0], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line)));
      acc[s][1] = _mm256_add_epi64(acc[s][1], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + 32)));
    }
  }
  __m256i sum = _mm256_setzero_si256();
  for (const auto& stream : acc) sum = _mm256_add_epi64(sum, _mm256_add_epi64(stream[0], stream[1]));
  uint64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sum);
  uint64_t total = lanes[0] + lanes[1] + lanes[2] + lanes[3];
  for (size_t i = kStreams * part; i < bytes; ++i) total += static_cast<unsigned char>(from[i]);
  return static_cast<double>(total);
}

}  // namespace duo::avx2
