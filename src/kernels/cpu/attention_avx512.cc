#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/decode_loop.h"
#include "kernels/cpu/kv_rows.h"
#include "kernels/cpu/prefill_loop.h"
#include "kernels/cpu/vec_avx512.h"

namespace duo {

void DecodeAttentionAvx512(const DecodeAttention& a) {
  if (a.kv_type == DType::kF32) {
    DecodeLoop<VecAvx512, F32Cache<VecAvx512>>::Run(a);
  } else {
    DecodeLoop<VecAvx512, WidenedBf16Cache<VecAvx512>>::Run(a);
  }
}

void PrefillAttentionAvx512(const PrefillAttention& a) {
  if (a.kv_type == DType::kF32) {
    PrefillLoop<VecAvx512, F32Cache<VecAvx512>>::Run(a);
  } else {
    PrefillLoop<VecAvx512, WidenedBf16Cache<VecAvx512>>::Run(a);
  }
}

}  // namespace duo
