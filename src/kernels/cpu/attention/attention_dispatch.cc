#include "kernels/cpu/attention/attention_kernels.h"
#include "kernels/cpu/kernel_table.h"

namespace duo {
namespace {

constexpr AttentionKernels kPortableKernels = {DecodeAttentionPortable, PrefillAttentionPortable};
#if defined(__x86_64__)
constexpr AttentionKernels kAvx2Kernels = {DecodeAttentionAvx2, PrefillAttentionAvx2};
constexpr AttentionKernels kAvx512Kernels = {DecodeAttentionAvx512, PrefillAttentionAvx512};
constexpr AttentionKernels kAvx512VnniKernels = {DecodeAttentionAvx512Vnni, PrefillAttentionAvx512};
constexpr AttentionKernels kAvx512Bf16Kernels = {DecodeAttentionAvx512Bf16, PrefillAttentionAvx512Bf16};
#endif

}  // namespace

const AttentionKernels& AttentionKernelsFor(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx512Bf16: return kAvx512Bf16Kernels;
    case Isa::kAvx512Vnni: return kAvx512VnniKernels;
    case Isa::kAvx512: return kAvx512Kernels;
    case Isa::kAvx2: return kAvx2Kernels;
#endif
    default: return kPortableKernels;
  }
}

}  // namespace duo
