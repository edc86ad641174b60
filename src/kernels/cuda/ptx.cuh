// Instructions of the GPU that CUDA's language has no function for (PTX ISA, "mma.m16n8k16", "ldmatrix", "cp.async").
// Throughout, a lane of a warp is 4 * g + t. Tests that run the kernels on a CPU replace this file
// (tests/cuda_on_host).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace duo {

/// 16 bytes: eight bf16 numbers, or codes.
struct alignas(16) Chunk {
  uint32_t word[4];
};

/// c += a b, where words of a and b are pairs of bf16.
/// Operand a has 16 rows of 16: a[0] is columns 2t, 2t+1 of row g, and a[1] the same of row g+8. Words a[2] and a[3]
/// are columns 2t+8, 2t+9 of these rows. Operand b has 16 rows of 8: b0 is rows 2t, 2t+1 of column g, and b1 is rows
/// 2t+8, 2t+9. Result c has 16 rows of 8: columns 2t, 2t+1 of row g, then those of row g+8.
__device__ __forceinline__ void Mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Loads four 8x8 matrices of 16-bit numbers. Lane 8 i + r points at row r of matrix i in shared memory. Word out[i]
/// gets columns 2t, 2t+1 of row g of matrix i or, if kTransposed, rows 2t, 2t+1 of column g.
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

/// Starts to copy 16 bytes to shared memory, or to write zeros if !some. WaitForCopies waits for them.
__device__ __forceinline__ void CopyAsync(void* to, const void* from, bool some = true) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(some ? 16 : 0)
               : "memory");
}
/// Makes a group of the copies since the last group.
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for all groups of copies except the last kLeft.
template <int kLeft>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

/// 2^x.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// a - b in both halves, which are bf16.
__device__ __forceinline__ uint32_t SubtractBf16(uint32_t a, uint32_t b) {
  // a * 1 - b is one instruction, which every architecture from 8.0 on has.
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(0x3f803f80u), "r"(b ^ 0x80008000u));
  return d;
}

}  // namespace duo
