#include "kernels/cpu/attention/attention_kernels.h"
#include "kernels/cpu/attention/attention_table.h"
#include "kernels/cpu/vec/vec_portable.h"

namespace duo {

void DecodeAttentionPortable(const DecodeAttention& a) { DecodeFloatProducts<VecPortable>(a); }
void PrefillAttentionPortable(const PrefillAttention& a) { PrefillFloatProducts<VecPortable>(a); }

}  // namespace duo
