#include "kernels/cpu/attention/attention_kernels.h"
#include "kernels/cpu/attention/attention_table.h"
#include "kernels/cpu/vec/vec_avx2.h"

namespace duo {

void DecodeAttentionAvx2(const DecodeAttention& a) { DecodePairProducts<VecAvx2>(a); }
void PrefillAttentionAvx2(const PrefillAttention& a) { PrefillFloatProducts<VecAvx2>(a); }

}  // namespace duo
