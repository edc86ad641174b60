// Attention as plain loops in double. It is the oracle for the tests of every kernel. Same contracts as attention.h.
#pragma once

#include "kernels/attention.h"
#include "kernels/kv_codes.h"

namespace duo {

/// Element d of a row of a cache of any type (docs/formats.md).
double KvElement(const void* rows, KvPart part, KvType type, int64_t row, int head_dim, int d);

/// acc, sum and max are floats between calls, as in the contract. Within a call everything is double.
void ReferenceDecodeAttention(const DecodeAttention& a);

/// Needs no scratch. A query that sees no key gets zeros.
void ReferencePrefillAttention(const PrefillAttention& a);

}  // namespace duo
