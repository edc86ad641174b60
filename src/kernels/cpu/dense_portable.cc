#include "kernels/cpu/dense_table.h"
#include "kernels/cpu/vec_portable.h"

namespace duo {

constinit const DenseKernels kDensePortable = DenseKernelsOf<VecPortable, FloatGroups<VecPortable>>();

}  // namespace duo
