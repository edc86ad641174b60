// Operations of tensor cores, and copies that run in parallel with the arithmetic. Each is one instruction (PTX ISA,
// "mma.m16n8k16", "ldmatrix", "cp.async"). Throughout, a lane of a warp is 4 * g + t.
#pragma once

#include "kernels/cuda/device_math.cuh"

namespace duo {

/// 16 bytes: eight bf16 numbers, or codes.
struct alignas(16) Chunk {
  uint32_t word[4];
};

#ifdef DUO_CUDA_ON_HOST

/// c += a b, where words of a and b are pairs of bf16.
/// Operand a has 16 rows of 16: a[0] is columns 2t, 2t+1 of row g, and a[1] the same of row g+8. Words a[2] and a[3]
/// are columns 2t+8, 2t+9 of these rows. Operand b has 16 rows of 8: b0 is rows 2t, 2t+1 of column g, and b1 is rows
/// 2t+8, 2t+9. Result c has 16 rows of 8: columns 2t, 2t+1 of row g, then those of row g+8.
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

/// Loads four 8x8 matrices of 16-bit numbers. Lane 8 i + r points at row r of matrix i in shared memory. Word out[i]
/// gets columns 2t, 2t+1 of row g of matrix i or, if kTransposed, rows 2t, 2t+1 of column g.
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

/// Starts to copy 16 bytes to shared memory, or to write zeros if !some. WaitForCopies waits for them.
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

/// a - b in both halves, which are bf16.
inline uint32_t SubtractBf16(uint32_t a, uint32_t b) {
  return PackBf16(LowFloat(a) - LowFloat(b), HighFloat(a) - HighFloat(b));
}
/// The lower halves of both words, or the upper ones.
inline uint32_t LowHalves(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }
inline uint32_t HighHalves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }

#else

__device__ __forceinline__ void Mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <bool kTransposed>
__device__ __forceinline__ void LoadMatrices(uint32_t out[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  }
}

__device__ __forceinline__ void CopyAsync(void* to, const void* from, bool some = true) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(some ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t SubtractBf16(uint32_t a, uint32_t b) {
  // a * 1 - b is one instruction, which every architecture from 8.0 on has.
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(0x3f803f80u), "r"(b ^ 0x80008000u));
  return d;
}
__device__ __forceinline__ uint32_t LowHalves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t HighHalves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

#endif

/// Two codes of a word minus the middle of their range, as bf16, which holds them exactly. For int8 the codes are bytes
/// 0 and 2, for int4 the lower halves of these bytes. The bf16 number 0x4300 is 128, and its last seven bits count up
/// from there.
template <KvType kType>
__device__ __forceinline__ uint32_t CentredCodes(uint32_t word) {
  if constexpr (kType == KvType::kInt8) {
    // 128 + the lower seven bits, minus 128 where the eighth bit is set, else minus 256.
    return SubtractBf16((word & 0x007f007fu) | 0x43004300u, (~word & 0x00800080u) | 0x43004300u);
  } else {
    return SubtractBf16((word & 0x000f000fu) | 0x43004300u, 0x43084308u);  // 136
  }
}
template <KvType kType>
constexpr float kMiddleCode = kType == KvType::kInt8 ? 128.0f : 8.0f;

/// The step of a row, and the value of its middle code.
struct StepAndMiddle {
  float step, middle;
};
template <KvType kType>
__device__ __forceinline__ StepAndMiddle StepOf(uint32_t params) {
  const float step = LowFloat(params);
  return {step, HighFloat(params) + kMiddleCode<kType> * step};
}

}  // namespace duo
