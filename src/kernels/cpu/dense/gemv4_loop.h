// GEMV over int4 weights (kernels/weight_codes.h) for a vector type V. The policy G (Int4Groups) says how a group of 32
// inputs is multiplied. A lane is an output, so a group's scales are one vector and nothing is summed across lanes.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "base/matrix_view.h"
#include "kernels/cpu/attention/code_pairs.h"
#include "kernels/cpu/attention/code_products.h"
#include "kernels/cpu/vec/inline.h"
#include "kernels/cpu/vec/vec_concept.h"
#include "kernels/dense.h"

namespace duo {
namespace {

/// Multiplies groups of int4 weights for a vector type V. All functions are static.
template <class G, class V>
concept Int4Groups = Vec<V> && requires(const float* x, int64_t n_in, void* out, const char* codes, size_t stride,
                                        const typename G::Piece& piece, int half, typename V::F* sums, int n) {
  // Prepares x [n_in] as an array of G::Piece. A Piece holds 64 inputs: two groups, with zeros after n_in.
  G::Prepare(x, n_in, out);
  // Groups<kN>: sums[s] = sum over group `half` of (code - 8) x, for kLanes outputs with codes at `codes` + s * stride,
  // s < kN. kN is 1 or kStreams.
  n = G::kStreams;  // streams of memory at once: as many as the registers allow
  G::template Groups<1>(codes, stride, piece, half, sums);
  G::template Groups<G::kStreams>(codes, stride, piece, half, sums);
};

// Multiplies groups as floats.
template <Vec V>
struct FloatGroups {
  using F = typename V::F;
  using Codes = FloatCodes<V, 4>;
  struct Piece {
    float x[kInt4Inputs];
  };
  static constexpr int kStreams = 1;  // the codes as floats need the registers of a second stream

  static void Prepare(const float* x, int64_t n_in, void* out) {
    auto* piece = static_cast<Piece*>(out);
    for (int64_t at = 0; at < n_in; at += kInt4Inputs, ++piece) {
      for (int64_t i = 0; i < kInt4Inputs; ++i) piece->x[i] = at + i < n_in ? x[at + i] : 0.0f;
    }
  }

  template <int kN>
  DUO_ALWAYS_INLINE void Groups(const char* codes, size_t stride, const Piece& piece, int half, F* sums) {
    const F eight = V::Set(8.0f);
    DUO_UNROLL for (int s = 0; s < kN; ++s) {
      F sum[4] = {V::Zero(), V::Zero(), V::Zero(), V::Zero()};
      for (int word = 0; word < 4; ++word) {
        const float* x = piece.x + 32 * half + 8 * word;
        F code[8];
        Codes::SplitKeys(codes + s * stride + 64 * word, code);
        DUO_UNROLL for (int i = 0; i < 8; ++i) sum[i % 4] = V::Fma(V::Sub(code[i], eight), V::Set(x[i]), sum[i % 4]);
      }
      sums[s] = V::Add(V::Add(sum[0], sum[1]), V::Add(sum[2], sum[3]));
    }
  }
};

// Multiplies groups whose inputs are integers of 14 bits and a sign, for CPUs with products of pairs (code_pairs.h). A
// group's sums are exact.
template <PairVec V>
struct PairGroups {
  using F = typename V::F;
  using Codes = PairCodes<V, 4>;
  struct Piece {
    char pairs[2 * kInt4Inputs];
    float step[2];      // per group
    int32_t offset[2];  // per group: -8 times the sum of its integers
  };
  static constexpr int kStreams = 2;

  static void Prepare(const float* x, int64_t n_in, void* out) {
    auto* piece = static_cast<Piece*>(out);
    for (int64_t at = 0; at < n_in; at += kInt4Inputs, ++piece) {
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t first = at + kInt4Group * half, left = n_in - first;
        const auto facts = Codes::PrepareQuery(x + first, left < kInt4Group ? static_cast<int>(left) : kInt4Group,
                                               kInt4Group, piece->pairs + 2 * kInt4Group * half);
        piece->step[half] = facts.step;
        piece->offset[half] = -8 * facts.int_sum;
      }
    }
  }

  template <int kN>
  DUO_ALWAYS_INLINE void Groups(const char* codes, size_t stride, const Piece& piece, int half, F* sums) {
    typename V::Bits sum[kN][2];
    DUO_UNROLL for (int s = 0; s < kN; ++s) {
      sum[s][0] = typename V::Bits{} + static_cast<uint32_t>(piece.offset[half]);
      sum[s][1] = typename V::Bits{};
    }
    DUO_UNROLL for (int word = 0; word < 4; ++word) {
      const char* x = piece.pairs + 64 * half + 16 * word;
      DUO_UNROLL for (int s = 0; s < kN; ++s) {
        typename Codes::Code code[4];
        Codes::SplitKeys(codes + s * stride + 64 * word, code);
        DUO_UNROLL for (int i = 0; i < 4; ++i) {
          sum[s][i % 2] = Codes::KeyMulAdd(code[i], Codes::Broadcast(x + 4 * i), sum[s][i % 2]);
        }
      }
    }
    const F step = V::Set(piece.step[half]);
    DUO_UNROLL for (int s = 0; s < kN; ++s) sums[s] = V::Mul(V::FromInts(sum[s][0] + sum[s][1]), step);
  }
};

template <Vec V, Int4Groups<V> G>
struct Gemv4Loop {
  using F = typename V::F;
  using Piece = typename G::Piece;
  static constexpr int kVectors = kInt4Rows / V::kLanes;  // vectors per block of 16 outputs
  static constexpr int64_t kPrefetchBytes = 4096;
  static_assert(sizeof(Piece) <= Gemv4PreparedBytes(kInt4Inputs));

  // Outputs [row, row + 16), and kN - 1 further blocks of outputs, each `stride` bytes and `rows` outputs after the one
  // before.
  template <int kN>
  static void Blocks(const Gemv4& p, int64_t row, int64_t rows) {
    const int64_t n_pieces = (p.n_in + kInt4Inputs - 1) / kInt4Inputs;
    const char* w = reinterpret_cast<const char*>(p.w) + row / kInt4Rows * n_pieces * kInt4PieceBytes;
    const size_t stride = rows / kInt4Rows * n_pieces * kInt4PieceBytes;
    const auto* x = static_cast<const Piece*>(p.x);
    F total[kN][kVectors];
    DUO_UNROLL for (int s = 0; s < kN; ++s) { DUO_UNROLL for (int l = 0; l < kVectors; ++l) total[s][l] = V::Zero(); }
    for (int64_t i = 0; i < n_pieces; ++i, w += kInt4PieceBytes, ++x) {
      DUO_UNROLL for (int s = 0; s < kN; ++s) {
        const char* ahead = w + s * stride + kPrefetchBytes;
        for (size_t b = 0; b < kInt4PieceBytes; b += 64) V::Prefetch(ahead + b);
      }
      DUO_UNROLL for (int half = 0; half < 2; ++half) {
        DUO_UNROLL for (int l = 0; l < kVectors; ++l) {
          F sums[kN];
          G::template Groups<kN>(w + 256 * half + 4 * V::kLanes * l, stride, *x, half, sums);
          DUO_UNROLL for (int s = 0; s < kN; ++s) {
            const char* scales = w + s * stride + 512 + 32 * half + 2 * V::kLanes * l;
            total[s][l] = V::Fma(V::LoadBf16(scales), sums[s], total[s][l]);
          }
        }
      }
    }
    DUO_UNROLL for (int s = 0; s < kN; ++s) {
      alignas(64) float sums[kInt4Rows];
      DUO_UNROLL for (int l = 0; l < kVectors; ++l) V::Store(sums + l * V::kLanes, total[s][l]);
      StoreOutputs(p, row + s * rows, sums);
    }
  }

  // Adds the sums of 16 outputs to y.
  static void StoreOutputs(const Gemv4& p, int64_t row, const float* sums) {
    for (int64_t i = 0; i < kInt4Rows && row + i < p.row_end; ++i) {
      float sum = sums[i];
      if (p.bias != nullptr) sum += p.bias[row + i];
      p.y[row + i] = p.accumulate != 0 ? p.y[row + i] + sum : sum;
    }
  }

  // Reads several streams of memory, as in gemv_loop.h.
  static void Run(const Gemv4& p) {
    constexpr int kStreams = G::kStreams;
    const int64_t n_blocks = (p.row_end - p.row_begin + kInt4Rows - 1) / kInt4Rows, per_stream = n_blocks / kStreams;
    for (int64_t b = 0; b < per_stream; ++b) {
      Blocks<kStreams>(p, p.row_begin + kInt4Rows * b, kInt4Rows * per_stream);
    }
    for (int64_t b = kStreams * per_stream; b < n_blocks; ++b) Blocks<1>(p, p.row_begin + kInt4Rows * b, 0);
  }

  static constexpr Gemv4Kernels Kernels() { return {.prepare = G::Prepare, .run = Run}; }
};

// DenseKernels::unpack4.
template <Vec V>
struct Unpack4Loop {
  using F = typename V::F;

  static void Unpack(const uint8_t* block, int64_t row, int64_t first, int64_t n, float* out) {
    const uint8_t* piece = block + first / kInt4Inputs * kInt4PieceBytes;
    const F eight = V::Set(8.0f);
    for (int64_t at = 0; at < n; at += 32) {
      const int64_t half = at / 32 % 2;
      const uint8_t* codes = piece + 256 * half + 4 * row;
      int8_t code[32];
      for (int word = 0; word < 4; ++word) {
        uint32_t x;
        __builtin_memcpy(&x, codes + 64 * word, sizeof x);
        const uint32_t low = x & 0x0f0f0f0fu, high = x >> 4 & 0x0f0f0f0fu;
        __builtin_memcpy(code + 8 * word, &low, sizeof low);
        __builtin_memcpy(code + 8 * word + 4, &high, sizeof high);
      }
      bf16 scale;
      __builtin_memcpy(&scale, piece + 512 + 32 * half + 2 * row, sizeof scale);
      const uint32_t bits = uint32_t{scale.bits} << 16;
      float factor;
      __builtin_memcpy(&factor, &bits, sizeof factor);
      const F f = V::Set(factor);
      const int m = n - at < 32 ? static_cast<int>(n - at) : 32;
      for (int i = 0; i < m; i += V::kLanes) {
        const F x = V::Mul(f, V::Sub(V::LoadI8(code + i), eight));
        if (m - i >= V::kLanes) {
          V::Store(out + at + i, x);
        } else {
          V::StorePartial(out + at + i, x, m - i);
        }
      }
      if (half == 1) piece += kInt4PieceBytes;
    }
  }
};

}  // namespace
}  // namespace duo
