#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {
namespace {

constexpr DenseKernels kPortable = {portable::GemvRows,    portable::RmsNormRows, portable::RopeTokens,
                                    portable::SwiGluRange, portable::AddRange,    portable::F32ToBf16,
                                    portable::RoundToBf16, portable::Widen,       portable::ReadSum};

}  // namespace

const DenseKernels& DenseKernelsFor(Isa isa) {
  switch (isa) {
    default: return kPortable;
  }
}

}  // namespace duo
