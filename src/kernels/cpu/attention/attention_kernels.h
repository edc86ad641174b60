// The attention kernels of each instruction set (contracts in attention.h). Only declarations, so instruction-set
// specific files may include this header. Callers use kernel_table.h.
#pragma once

#include "kernels/attention.h"

namespace duo {

void DecodeAttentionPortable(const DecodeAttention& a);
void DecodeAttentionAvx2(const DecodeAttention& a);
void DecodeAttentionAvx512(const DecodeAttention& a);
void DecodeAttentionAvx512Vnni(const DecodeAttention& a);
void DecodeAttentionAvx512Bf16(const DecodeAttention& a);

void PrefillAttentionPortable(const PrefillAttention& a);
void PrefillAttentionAvx2(const PrefillAttention& a);
void PrefillAttentionAvx512(const PrefillAttention& a);
void PrefillAttentionAvx512Bf16(const PrefillAttention& a);

}  // namespace duo
