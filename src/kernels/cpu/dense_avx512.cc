#include "kernels/cpu/dense_kernels.h"
#include "kernels/cpu/elementwise_loop.h"
#include "kernels/cpu/gemv_loop.h"
#include "kernels/cpu/vec_avx512.h"

namespace duo::avx512 {
namespace {
using Elementwise = ElementwiseLoop<VecAvx512>;
}

void GemvRows(const Gemv& p) { GemvLoop<VecAvx512>::Run(p); }
void RmsNormRows(const RmsNorm& p) { Elementwise::RmsNormRows(p); }
void RopeTokens(const Rope& p) { Elementwise::RopeTokens(p); }
void SwiGluRange(const SwiGlu& p) { Elementwise::SwiGluRange(p); }
void AddRange(float* x, const float* y, int64_t n) { Elementwise::AddRange(x, y, n); }
void F32ToBf16(const float* x, bf16* out, int64_t n) { Elementwise::F32ToBf16(x, out, n); }
void RoundToBf16(const float* x, float* out, int64_t n) { Elementwise::RoundToBf16(x, out, n); }
void Widen(const void* x, DType type, float* out, int64_t n) { Elementwise::Widen(x, type, out, n); }
double ReadSum(const void* x, size_t bytes) { return Elementwise::ReadSum(x, bytes); }

}  // namespace duo::avx512
