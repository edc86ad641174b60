// Helpers of instruction-set specific files. Every function in such a file is inlined or local to its object. So the
// linker cannot use a copy compiled for a newer CPU in code that runs on an older one.
#pragma once

#define DUO_ALWAYS_INLINE static inline __attribute__((always_inline))

// Compilers keep accumulators in registers only when the loops over them are unrolled completely.
#if defined(__clang__)
#define DUO_UNROLL _Pragma("clang loop unroll(full)")
#else
#define DUO_UNROLL _Pragma("GCC unroll 16")
#endif
