#include "kernels/cpu/attention/attention_kernels.h"
#include "kernels/cpu/attention/code_products_avx512_vnni.h"
#include "kernels/cpu/attention/decode_codes_loop.h"
#include "kernels/cpu/vec/vec_avx512.h"

namespace duo {

void DecodeAttentionAvx512Vnni(const DecodeAttention& a) {
  if (a.shape.kv_type == KvType::kInt8 && a.shape.compute != ComputeType::kF32) {
    DecodeCodesLoop<VecAvx512, DotCodes<8>>::Run(a);
  } else if (a.shape.kv_type == KvType::kInt4 && a.shape.compute != ComputeType::kF32) {
    DecodeCodesLoop<VecAvx512, DotCodes<4>>::Run(a);
  } else {
    DecodeAttentionAvx512(a);
  }
}

}  // namespace duo
