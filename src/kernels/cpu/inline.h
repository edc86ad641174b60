// Helpers of instruction-set specific files: everything is inlined or local to its object, so that no copy compiled for
// a newer CPU can be linked into code that runs on an older one.
#pragma once

#define DUO_ALWAYS_INLINE static inline __attribute__((always_inline))

// Accumulators live in registers only when the loops over them are unrolled completely.
#if defined(__clang__)
#define DUO_UNROLL _Pragma("clang loop unroll(full)")
#else
#define DUO_UNROLL _Pragma("GCC unroll 16")
#endif
