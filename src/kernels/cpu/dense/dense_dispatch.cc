#include "kernels/cpu/kernel_table.h"

namespace duo {

const DenseKernels& DenseKernelsFor(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2: return kDenseAvx2;
    case Isa::kAvx512: return kDenseAvx512;
    case Isa::kAvx512Vnni:
    case Isa::kAvx512Bf16:
      return kDenseAvx512Vnni;  // bf16 dot products would round x, but GEMV promises float products
#endif
    default: return kDensePortable;
  }
}

}  // namespace duo
