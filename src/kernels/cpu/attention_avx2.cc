#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/decode_loop.h"
#include "kernels/cpu/kv_rows.h"
#include "kernels/cpu/prefill_loop.h"
#include "kernels/cpu/vec_avx2.h"

namespace duo {

void DecodeAttentionAvx2(const DecodeAttention& a) {
  if (a.kv_type == DType::kF32) {
    DecodeLoop<VecAvx2, F32Cache<VecAvx2>>::Run(a);
  } else {
    DecodeLoop<VecAvx2, WidenedBf16Cache<VecAvx2>>::Run(a);
  }
}

void PrefillAttentionAvx2(const PrefillAttention& a) {
  if (a.kv_type == DType::kF32) {
    PrefillLoop<VecAvx2, F32Cache<VecAvx2>>::Run(a);
  } else {
    PrefillLoop<VecAvx2, WidenedBf16Cache<VecAvx2>>::Run(a);
  }
}

}  // namespace duo
