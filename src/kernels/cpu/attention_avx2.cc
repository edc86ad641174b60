#include "kernels/cpu/attention_kernels.h"

namespace duo {

void DecodeAttentionAvx2(const DecodeAttention& a) { DecodeAttentionPortable(a); }
void PrefillAttentionAvx2(const PrefillAttention& a) { PrefillAttentionPortable(a); }

}  // namespace duo
