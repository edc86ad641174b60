#include "kernels/cpu/dense/block_gemm.h"

#include <dnnl.h>

#include "base/check.h"
#include "base/parallel.h"

namespace duo {

void RunBlockGemm(const BlockGemm& g) {
  const LibraryOnOneThread alone;
  const auto letter = [](Transpose op) { return op == Transpose::kYes ? 'T' : 'N'; };
  const dnnl_status_t status = dnnl_sgemm(letter(g.a_op), letter(g.b_op), g.m, g.n, g.k, g.alpha, g.a, g.a_stride, g.b,
                                          g.b_stride, g.beta, g.c, g.c_stride);
  DUO_CHECK(status == dnnl_success, "oneDNN rejected the sizes or strides of a block");
}

}  // namespace duo
