// Attention as plain loops in double: the oracle that every kernel is tested against. Same contracts as attention.h.
#pragma once

#include "kernels/attention.h"
#include "kernels/kv_codes.h"

namespace duo {

/// Element d of a row of a cache of any type (docs/formats.md).
double KvElement(const void* rows, KvPart part, KvType type, int64_t row, int head_dim, int d);

/// acc, sum and max are kept as floats between calls, as the contract stores them; within a call everything is double.
void ReferenceDecodeAttention(const DecodeAttention& a);

/// Needs no scratch. A query that sees no key gets zeros.
void ReferencePrefillAttention(const PrefillAttention& a);

}  // namespace duo
