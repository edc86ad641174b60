#include "kernels/cpu/dense/dense_table.h"
#include "kernels/cpu/vec/vec_portable.h"

namespace duo {

constinit const DenseKernels kDensePortable = DenseKernelsOf<VecPortable, FloatGroups<VecPortable>>();

}  // namespace duo
