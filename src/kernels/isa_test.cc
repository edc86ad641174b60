#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <set>
#include <sstream>
#include <string>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/vec/isa.h"
#include "kernels/cpu/vec/isa_internal.h"

namespace duo {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr Isa kLevels[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16};

TEST(Isa, EveryLevelThatTheMachineHasCanBeForced) {
  for (const Isa detected : kLevels) {
    for (const Isa isa : kLevels) {
      const Result<Isa> got = internal::SelectIsaFrom(detected, IsaName(isa));
      ASSERT_EQ(got.ok(), isa <= detected) << IsaName(isa) << " on " << IsaName(detected);
      if (got.ok()) {
        EXPECT_EQ(*got, isa);
      }
    }
  }
}

#if defined(__x86_64__)
TEST(Isa, IsWhatTheSystemSaysOfItsCpu) {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::set<std::string> flags;
  for (std::string line; std::getline(cpuinfo, line) && flags.empty();) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;) flags.insert(word);
  }
  ASSERT_FALSE(flags.empty());
  const auto has = [&](std::initializer_list<const char*> names) {
    return std::all_of(names.begin(), names.end(), [&](const char* name) { return flags.contains(name); });
  };
  EXPECT_EQ(internal::HasF16c(), has({"f16c"}));
  const bool avx2 = has({"avx2", "fma", "f16c"});
  const bool avx512 = avx2 && has({"avx512f", "avx512bw", "avx512vl", "avx512dq"});
  const bool vnni = avx512 && has({"avx512_vnni"});
  EXPECT_EQ(DetectIsa(), vnni && has({"avx512_bf16"}) ? Isa::kAvx512Bf16
                         : vnni                       ? Isa::kAvx512Vnni
                         : avx512                     ? Isa::kAvx512
                         : avx2                       ? Isa::kAvx2
                                                      : Isa::kPortable);
}
#endif

TEST(Isa, WithoutForceTheBestLevelIsTaken) {
  for (const Isa detected : kLevels) {
    EXPECT_EQ(*internal::SelectIsaFrom(detected, nullptr), detected);
    EXPECT_EQ(*internal::SelectIsaFrom(detected, ""), detected);
  }
  EXPECT_EQ(*SelectIsa(nullptr), DetectIsa());
}

TEST(Isa, ForcingWhatTheCpuLacksIsAnErrorThatNamesWhatThereIs) {
  const Result<Isa> got = internal::SelectIsaFrom(Isa::kAvx2, "avx512");
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.status().code(), StatusCode::kUnsupported);
  EXPECT_THAT(got.status().message(),
              AllOf(HasSubstr("DUO_ISA=avx512:"), HasSubstr("portable, avx2"), Not(HasSubstr("avx512_bf16"))));
}

TEST(Isa, UnknownNamesAreErrors) {
  for (const char* name : {"sse2", "AVX2", "avx2 ", "avx512_bf1"}) {
    const Result<Isa> got = SelectIsa(name);
    ASSERT_FALSE(got.ok()) << name;
    EXPECT_EQ(got.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(got.status().message(), AllOf(HasSubstr(name), HasSubstr("portable")));
  }
}

TEST(Isa, EachLevelRunsItsOwnKernels) {
  const DenseKernels& portable = DenseKernelsFor(Isa::kPortable);
#if defined(__x86_64__)
  EXPECT_NE(DenseKernelsFor(Isa::kAvx2).gemv, portable.gemv);
  EXPECT_NE(DenseKernelsFor(Isa::kAvx512).gemv, DenseKernelsFor(Isa::kAvx2).gemv);
#endif
  for (const Isa isa : kLevels) {
    const DenseKernels& k = DenseKernelsFor(isa);
    EXPECT_TRUE(k.gemv && k.rms_norm && k.rope && k.swiglu && k.add && k.f32_to_bf16 && k.round_to_bf16 && k.widen &&
                k.read_sum)
        << IsaName(isa);
  }
}

}  // namespace
}  // namespace duo
