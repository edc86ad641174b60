#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {
namespace {

constexpr DenseKernels kPortable = {portable::GemvRows,    portable::RmsNormRows, portable::RopeTokens,
                                    portable::SwiGluRange, portable::AddRange,    portable::F32ToBf16,
                                    portable::RoundToBf16, portable::Widen,       portable::ReadSum};
#if defined(__x86_64__)
constexpr DenseKernels kAvx2 = {avx2::GemvRows,  avx2::RmsNormRows, avx2::RopeTokens, avx2::SwiGluRange, avx2::AddRange,
                                avx2::F32ToBf16, avx2::RoundToBf16, avx2::Widen,      avx2::ReadSum};
constexpr DenseKernels kAvx512 = {avx512::GemvRows,    avx512::RmsNormRows, avx512::RopeTokens,
                                  avx512::SwiGluRange, avx512::AddRange,    avx512::F32ToBf16,
                                  avx512::RoundToBf16, avx512::Widen,       avx512::ReadSum};
#else
constexpr const DenseKernels& kAvx2 = kPortable;
constexpr const DenseKernels& kAvx512 = kPortable;
#endif

}  // namespace

const DenseKernels& DenseKernelsFor(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return kPortable;
    case Isa::kAvx2: return kAvx2;
    case Isa::kAvx512:
    case Isa::kAvx512Bf16: return kAvx512;  // bf16 dot products would round x; GEMV promises float products
  }
  return kPortable;
}

}  // namespace duo
