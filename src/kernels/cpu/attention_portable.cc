#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/decode_loop.h"
#include "kernels/cpu/kv_rows.h"
#include "kernels/cpu/prefill_loop.h"
#include "kernels/cpu/vec_portable.h"

namespace duo {

void DecodeAttentionPortable(const DecodeAttention& a) {
  if (a.kv_type == DType::kF32) {
    DecodeLoop<VecPortable, F32Cache<VecPortable>>::Run(a);
  } else {
    DecodeLoop<VecPortable, WidenedBf16Cache<VecPortable>>::Run(a);
  }
}

void PrefillAttentionPortable(const PrefillAttention& a) {
  if (a.kv_type == DType::kF32) {
    PrefillLoop<VecPortable, F32Cache<VecPortable>>::Run(a);
  } else {
    PrefillLoop<VecPortable, WidenedBf16Cache<VecPortable>>::Run(a);
  }
}

}  // namespace duo
