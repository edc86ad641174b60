#include "kernels/cpu/attention_kernels.h"

namespace duo {

void DecodeAttentionAvx512Bf16(const DecodeAttention& a) { DecodeAttentionPortable(a); }
void PrefillAttentionAvx512Bf16(const PrefillAttention& a) { PrefillAttentionPortable(a); }

}  // namespace duo
