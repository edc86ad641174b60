// Attention as plain loops in double: the oracle that every kernel is tested against. Same contracts as attention.h.
#pragma once

#include "kernels/attention.h"

namespace duo {

/// acc, sum and max are kept as floats between calls, as the contract stores them; within a call everything is double.
void ReferenceDecodeAttention(const DecodeAttention& a);

/// Needs no scratch. A query that sees no key gets zeros.
void ReferencePrefillAttention(const PrefillAttention& a);

}  // namespace duo
