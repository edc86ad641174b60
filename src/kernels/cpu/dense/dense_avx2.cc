#include "kernels/cpu/dense/dense_table.h"
#include "kernels/cpu/vec/vec_avx2.h"

namespace duo {

constinit const DenseKernels kDenseAvx2 = DenseKernelsOf<VecAvx2, PairGroups<VecAvx2>>();

}  // namespace duo
