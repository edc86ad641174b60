#include "kernels/cpu/attention/attention_kernels.h"
#include "kernels/cpu/attention/attention_table.h"
#include "kernels/cpu/vec/vec_avx512.h"

namespace duo {

void DecodeAttentionAvx512(const DecodeAttention& a) { DecodePairProducts<VecAvx512>(a); }
void PrefillAttentionAvx512(const PrefillAttention& a) { PrefillFloatProducts<VecAvx512>(a); }

}  // namespace duo
