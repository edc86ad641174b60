#include "kernels/cpu/attention/attention_kernels.h"
#include "kernels/cpu/attention/code_tiles_avx512_bf16.h"
#include "kernels/cpu/attention/decode_loop.h"
#include "kernels/cpu/attention/kv_rows_avx512_bf16.h"
#include "kernels/cpu/attention/prefill_loop.h"
#include "kernels/cpu/vec/vec_avx512.h"

namespace duo {

void DecodeAttentionAvx512Bf16(const DecodeAttention& a) {
  if (a.shape.kv_type == KvType::kBF16 && a.shape.compute != ComputeType::kF32) {
    DecodeLoop<VecAvx512, Bf16PairCache>::Run(a);
  } else {
    DecodeAttentionAvx512Vnni(a);
  }
}

void PrefillAttentionAvx512Bf16(const PrefillAttention& a) {
  if (a.shape.compute == ComputeType::kF32) return PrefillAttentionAvx512(a);
  switch (a.shape.kv_type) {
    case KvType::kF32: return PrefillAttentionAvx512(a);
    case KvType::kBF16: return PrefillLoop<VecAvx512, Bf16PairCache>::Run(a);
    case KvType::kInt8: return PrefillLoop<VecAvx512, DotCodeTiles<8>>::Run(a);
    case KvType::kInt4: return PrefillLoop<VecAvx512, DotCodeTiles<4>>::Run(a);
  }
}

}  // namespace duo
