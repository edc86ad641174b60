#include "kernels/cpu/attention_kernels.h"

namespace duo {

void DecodeAttentionAvx512(const DecodeAttention& a) { DecodeAttentionPortable(a); }
void PrefillAttentionAvx512(const PrefillAttention& a) { PrefillAttentionPortable(a); }

}  // namespace duo
