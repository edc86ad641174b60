// The exact Lambda mask of a streaming head (DuoAttention section 2.2). It is defined per query, so it does not depend
// on how a prompt is cut into chunks.
// Plain old data, so instruction-set specific files may include this header.
#pragma once

#include <cstdint>

namespace duo {

/// Window of a head that sees everything before it.
constexpr int64_t kWholeContext = INT64_MAX;

/// A query at absolute position i sees key j iff j <= i and (j < sink or i - j < window). The window counts the query's
/// own token. A retrieval head has window == kWholeContext.
struct LambdaMask {
  int64_t sink = 0;                // tokens
  int64_t window = kWholeContext;  // tokens, >= 1
};

// static, because an instruction-set specific object must not export a copy that the linker could use everywhere.
static inline constexpr bool Sees(const LambdaMask& mask, int64_t i, int64_t j) {
  return j <= i && (j < mask.sink || i - j < mask.window);
}

}  // namespace duo
