#include "kernels/cpu/vec/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <string>
#include <string_view>

#include "base/error.h"
#include "kernels/cpu/vec/isa_internal.h"

namespace duo {
namespace {

constexpr Isa kLevels[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16};

std::string NamesUpTo(Isa best) {
  std::string names;
  for (const Isa isa : kLevels) {
    if (isa > best) break;
    if (!names.empty()) names += ", ";
    names += IsaName(isa);
  }
  return names;
}

}  // namespace

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return "portable";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Vnni: return "avx512_vnni";
    case Isa::kAvx512Bf16: return "avx512_bf16";
  }
  return "unknown";
}

Isa DetectIsa() {
#if defined(__x86_64__)
  // The compiler's run-time library asks cpuid. For the wide registers it also asks xgetbv, which says whether the
  // operating system saves them. So an operating system without AVX-512 state counts as a CPU without AVX-512.
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !internal::HasF16c()) return Isa::kPortable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
    return Isa::kAvx2;
  }
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::kAvx512;
  return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512Vnni;
#else
  return Isa::kPortable;
#endif
}

Result<Isa> SelectIsa(const char* forced) { return internal::SelectIsaFrom(DetectIsa(), forced); }

namespace internal {

bool HasF16c() {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
#else
  return false;
#endif
}

Result<Isa> SelectIsaFrom(Isa detected, const char* forced) {
  if (forced == nullptr || *forced == '\0') return detected;
  for (const Isa isa : kLevels) {
    if (std::string_view(forced) != IsaName(isa)) continue;
    if (isa <= detected) return isa;
    return Unsupported("DUO_ISA={}: this CPU or its operating system lacks these instructions; available here: {}",
                       forced, NamesUpTo(detected));
  }
  return InvalidArgument("DUO_ISA={}: unknown instruction set; available here: {}", forced, NamesUpTo(detected));
}

}  // namespace internal
}  // namespace duo
