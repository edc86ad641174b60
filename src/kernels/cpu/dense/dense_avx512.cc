#include "kernels/cpu/dense/dense_table.h"
#include "kernels/cpu/vec/vec_avx512.h"

namespace duo {

constinit const DenseKernels kDenseAvx512 = DenseKernelsOf<VecAvx512, PairGroups<VecAvx512>>();

}  // namespace duo
