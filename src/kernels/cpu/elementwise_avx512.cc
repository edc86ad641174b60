// Element-wise kernels with AVX-512 F, BW, VL and DQ. Tails are masked: memory outside the ranges is not touched.
#include <immintrin.h>

#include "kernels/cpu/dense_kernels.h"

namespace duo::avx512 {
namespace {

constexpr int64_t kLanes = 16;

inline __mmask16 MaskOf(int64_t left) { return static_cast<__mmask16>(left >= kLanes ? 0xffff : (1u << left) - 1); }

// exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; Taylor's polynomial of degree 7 is off by at most
// r^8 / 8! = 5.2e-9 there, below a tenth of an ulp. Under 2 ulp in all. Beyond the float range: 0 and infinity.
inline __m512 Exp(__m512 x) {
  x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x));  // NaN passes
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e430p-1f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-0x1.05c610p-29f), r);
  __m512 p = _mm512_set1_ps(1.0f / 5040);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// The upper half of each float, rounded to nearest even; NaN stays NaN. (AVX512_BF16's own conversion would flush
// subnormal numbers to zero.)
inline __m512i RoundedBits(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  return _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet);
}

inline float SumOfSquares(const float* x, int64_t n) {
  __m512 acc[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int64_t i = 0, c = 0; i < n; i += kLanes, c = (c + 1) & 3) {
    const __m512 v = _mm512_maskz_loadu_ps(MaskOf(n - i), x + i);
    acc[c] = _mm512_fmadd_ps(v, v, acc[c]);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(acc[0], acc[1]), _mm512_add_ps(acc[2], acc[3])));
}

}  // namespace

void RmsNormRows(const RmsNorm& p) {
  for (int64_t r = 0; r < p.n_rows; ++r) {
    const float* x = p.x + r * p.x_stride;
    float* out = p.out + r * p.out_stride;
    const float mean = SumOfSquares(x, p.dim) / static_cast<float>(p.dim);
    const __m512 scale = _mm512_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + p.eps))));
    for (int64_t i = 0; i < p.dim; i += kLanes) {
      const __mmask16 mask = MaskOf(p.dim - i);
      const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);
      _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(mask, p.weight + i)));
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
        const __mmask16 mask = MaskOf(half - d);
        const __m512 a = _mm512_maskz_loadu_ps(mask, low + d), b = _mm512_maskz_loadu_ps(mask, high + d);
        const __m512 c = _mm512_maskz_loadu_ps(mask, p.cos + t * half + d);
        const __m512 s = _mm512_maskz_loadu_ps(mask, p.sin + t * half + d);
        _mm512_mask_storeu_ps(low + d, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(high + d, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
      }
    }
  }
}

void SwiGluRange(const SwiGlu& p) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t i = 0; i < p.n; i += kLanes) {
    const __mmask16 mask = MaskOf(p.n - i);
    const __m512 gate = _mm512_maskz_loadu_ps(mask, p.gate + i);
    const __m512 up = _mm512_maskz_loadu_ps(mask, p.up + i);
    const __m512 silu = _mm512_div_ps(gate, _mm512_add_ps(one, Exp(_mm512_sub_ps(_mm512_setzero_ps(), gate))));
    _mm512_mask_storeu_ps(p.out + i, mask, _mm512_mul_ps(silu, up));
  }
}

void AddRange(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = MaskOf(n - i);
    const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, y + i));
    _mm512_mask_storeu_ps(x + i, mask, sum);
  }
}

void F32ToBf16(const float* x, bf16* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = MaskOf(n - i);
    const __m512i bits = RoundedBits(_mm512_maskz_loadu_ps(mask, x + i));
    _mm256_mask_storeu_epi16(out + i, mask, _mm512_cvtepi32_epi16(bits));
  }
}

void RoundToBf16(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = MaskOf(n - i);
    const __m512i bits = RoundedBits(_mm512_maskz_loadu_ps(mask, x + i));
    _mm512_mask_storeu_ps(out + i, mask, _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
  }
}

void Widen(const void* x, DType type, float* out, int64_t n) {
  const size_t element = DType::kF32 == type ? 4 : 2;
  for (int64_t i = 0; i < n; i += kLanes) {
    const __mmask16 mask = MaskOf(n - i);
    const char* from = static_cast<const char*>(x) + static_cast<size_t>(i) * element;
    __m512 wide;
    if (type == DType::kF32) {
      wide = _mm512_maskz_loadu_ps(mask, from);
    } else if (type == DType::kF16) {
      wide = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
    } else {
      const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
      wide = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
    }
    _mm512_mask_storeu_ps(out + i, mask, wide);
  }
}

// Four distant streams and a software prefetch: the fastest of those measured (one Zen 5 core: 39.7 GB/s, one plain
// stream 36.6).
double ReadSum(const void* x, size_t bytes) {
  constexpr size_t kStreams = 4, kLine = 64, kUnroll = 2, kAhead = 1024;
  const char* from = static_cast<const char*>(x);
  const size_t part = bytes / kStreams / (kUnroll * kLine) * (kUnroll * kLine);
  __m512i acc[kStreams][kUnroll];
  for (auto& stream : acc) {
    for (auto& chain : stream) chain = _mm512_setzero_si512();
  }
  for (size_t i = 0; i < part; i += kUnroll * kLine) {
    for (size_t s = 0; s < kStreams; ++s) {
      for (size_t u = 0; u < kUnroll; ++u) {
        const char* line = from + s * part + i + u * kLine;
        _mm_prefetch(line + kAhead, _MM_HINT_T0);
        acc[s][u] = _mm512_add_epi64(acc[s][u], _mm512_loadu_si512(line));
      }
    }
  }
  __m512i sum = _mm512_setzero_si512();
  for (const auto& stream : acc) {
    for (const auto& chain : stream) sum = _mm512_add_epi64(sum, chain);
  }
  uint64_t lanes[8];
  _mm512_storeu_si512(lanes, sum);
  uint64_t total = 0;  // may wrap around, which _mm512_reduce_add_epi64's signed numbers must not
  for (const uint64_t lane : lanes) total += lane;
  for (size_t i = kStreams * part; i < bytes; ++i) total += static_cast<unsigned char>(from[i]);
  return static_cast<double>(total);
}

}  // namespace duo::avx512
