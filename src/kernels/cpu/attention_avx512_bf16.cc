#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/decode_loop.h"
#include "kernels/cpu/kv_rows_avx512_bf16.h"
#include "kernels/cpu/prefill_loop.h"
#include "kernels/cpu/vec_avx512.h"

namespace duo {

void DecodeAttentionAvx512Bf16(const DecodeAttention& a) {
  if (a.kv_type == DType::kBF16 && a.math == AttentionMath::kBF16) {
    DecodeLoop<VecAvx512, Bf16PairCache>::Run(a);
  } else {
    DecodeAttentionAvx512(a);
  }
}

void PrefillAttentionAvx512Bf16(const PrefillAttention& a) {
  if (a.kv_type == DType::kBF16 && a.math == AttentionMath::kBF16) {
    PrefillLoop<VecAvx512, Bf16PairCache>::Run(a);
  } else {
    PrefillAttentionAvx512(a);
  }
}

}  // namespace duo
