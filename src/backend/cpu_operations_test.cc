// Operations of the CPU backend against the references in double. The shapes are large enough that several threads
// share the work, and no block size divides them. Tolerances: docs/numerics.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu_for_test.h"
#include "backend/heap_bytes_for_test.h"
#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/attention_test_util.h"
#include "kernels/dense_test_util.h"
#include "kernels/int4_blocks_for_test.h"
#include "kernels/reference/dense_reference.h"
#include "kernels/weight_codes.h"

namespace duo {
namespace {

using testing_util::kUnit;
using testing_util::Normal;
using Floats = std::vector<float>;

TEST(CpuOperations, RefuseMoreThan1024Threads) {
  const Status status = CreateBackend({.device = Device::kCpu, .n_threads = 1025}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
}

// ---- Linear

/// Random weights of one type, and the numbers that they stand for.
class Weights {
 public:
  Weights(DType type, int64_t n_out, int64_t n_in, Rng* rng)
      : numbers_(Normal(rng, n_out * n_in)),
        plain_(n_out * n_in, type == DType::kI8 || type == DType::kU8 ? DType::kF32 : type),
        int4_(numbers_, type == DType::kU8 ? n_out : 0, n_in) {
    view_ = {.data = plain_.data(), .dtype = type, .n_out = n_out, .n_in = n_in};
    if (type == DType::kU8) {
      view_.data = int4_.bytes.data();
      numbers_ = int4_.Floats();
    } else if (type == DType::kI8) {
      RoundToInt8();
    } else {
      for (size_t i = 0; i < numbers_.size(); ++i) {
        plain_.Set(static_cast<int64_t>(i), static_cast<double>(numbers_[i]));
        numbers_[i] = static_cast<float>(reference::Load(plain_.data(), type, static_cast<int64_t>(i)));
      }
    }
  }
  const MatrixView& view() const { return view_; }
  /// [n_out, n_in].
  const Floats& numbers() const { return numbers_; }

 private:
  void RoundToInt8() {
    int8_.resize(numbers_.size());
    scale_.resize(view_.n_out);
    for (int64_t o = 0; o < view_.n_out; ++o) {
      float* row = numbers_.data() + o * view_.n_in;
      int8_t* codes = int8_.data() + o * view_.n_in;
      float& scale = scale_[o];
      QuantizeInt8(row, view_.n_in, codes, &scale);
      for (int64_t i = 0; i < view_.n_in; ++i) row[i] = scale * static_cast<float>(codes[i]);
    }
    view_.data = int8_.data();
    view_.scale = scale_.data();
  }

  Floats numbers_, scale_;
  testing_util::Guarded plain_;
  testing_util::Int4Blocks int4_;
  std::vector<int8_t> int8_;
  MatrixView view_;
};

/// The input as `compute` multiplies it.
Floats AsMultiplied(const Floats& x, ComputeType compute, int64_t n_in) {
  Floats out = x;
  if (compute == ComputeType::kBF16) {
    for (float& value : out) value = ToFloat(ToBf16(value));
  }
  if (compute == ComputeType::kInt8) {
    std::vector<int8_t> codes(n_in);
    for (size_t at = 0; at < out.size(); at += codes.size()) {
      float scale;
      QuantizeInt8(x.data() + at, n_in, codes.data(), &scale);
      for (size_t i = 0; i < codes.size(); ++i) out[at + i] = scale * static_cast<float>(codes[i]);
    }
  }
  return out;
}

Floats RowNorms(const Floats& x, int64_t n) {
  Floats norms;
  for (size_t at = 0; at < x.size(); at += n) {
    double squares = 0;
    for (size_t i = 0; i < static_cast<size_t>(n); ++i) squares += std::pow(static_cast<double>(x[at + i]), 2);
    norms.push_back(static_cast<float>(std::sqrt(squares)));
  }
  return norms;
}

struct LinearCase {
  ComputeType compute;
  int64_t n_tokens;
  bool accumulate;  // else there is a bias
};

// (n_in + 4) u |x| |w| for sums of floats. Weights are floats after conversion, another u. Except with f32, a few
// kernels round weights, or inputs by group, to bf16 or finer: 2^-8.
void CheckLinear(Backend* backend, const Weights& weights, const LinearCase& c, Rng* rng) {
  const int64_t n_out = weights.view().n_out, n_in = weights.view().n_in;
  const Floats x = Normal(rng, c.n_tokens * n_in), bias = Normal(rng, n_out), before = Normal(rng, c.n_tokens * n_out);
  Floats out = before, expected = before;
  const LinearTask tasks[] = {{weights.view(), c.accumulate ? nullptr : bias.data(), out.data(), c.accumulate}};
  ASSERT_TRUE(backend->Linear(c.compute, {.x = x.data(), .n_tokens = c.n_tokens, .n_in = n_in}, tasks).ok());
  const Floats multiplied = AsMultiplied(x, c.compute, n_in);
  reference::GemmAll({.x = multiplied.data(),
                      .x_type = DType::kF32,
                      .n_tokens = c.n_tokens,
                      .n_in = n_in,
                      .w = weights.numbers().data(),
                      .w_type = DType::kF32,
                      .n_out = n_out,
                      .bias = tasks[0].bias,
                      .out = expected.data(),
                      .out_stride = n_out,
                      .accumulate = c.accumulate});
  const Floats x_norms = RowNorms(multiplied, n_in), w_norms = RowNorms(weights.numbers(), n_in);
  const double relative =
      static_cast<double>(n_in + 5) * kUnit + (c.compute == ComputeType::kF32 ? 0.0 : std::ldexp(1.0, -8));
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t t = i / n_out, o = i % n_out;
    const double start = std::fabs(static_cast<double>(c.accumulate ? before[i] : bias[o]));
    ASSERT_NEAR(out[i], expected[i], relative * (static_cast<double>(x_norms[t] * w_norms[o]) + start))
        << weights.view().type_name() << " with " << ComputeTypeName(c.compute) << ", token " << t << " of "
        << c.n_tokens << ", output " << o << ", " << backend->Describe();
  }
}

void CheckLinearOfAllTypes(Backend* backend, const std::vector<int64_t>& tokens) {
  Rng rng(21);
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kI8, DType::kU8}) {
    const Weights weights(type, 301, 203, &rng);
    for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16, ComputeType::kInt8}) {
      if (compute == ComputeType::kInt8 && type != DType::kI8) continue;
      for (const int64_t n_tokens : tokens) {
        for (const bool accumulate : {false, true}) {
          CheckLinear(backend, weights, {compute, n_tokens, accumulate}, &rng);
          if (testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(CpuOperations, LinearAgreesWithReference) {
  for (const int n_threads : {1, 2, 3}) CheckLinearOfAllTypes(CpuWith(n_threads).get(), {1, 2, 3, 4, 5, 17, 40});
}

TEST(CpuOperations, LinearAgreesWithReferenceOnEveryLevel) {
  for (const Isa isa : attention_test::LevelsOfThisCpu()) {
    setenv("DUO_ISA", IsaName(isa), 1);
    const BackendPtr backend = CpuWith(2);
    unsetenv("DUO_ISA");
    CheckLinearOfAllTypes(backend.get(), {1, 3, 17});
  }
}

// ---- Rope

// 3 u (|x[d]| + |x[d + h]|).
void ExpectRotated(const Floats& got, const Floats& x, int n_heads, int head_dim, const Floats& cos,
                   const Floats& sin) {
  const int64_t width = int64_t{n_heads} * head_dim;
  Floats expected = x;
  reference::RopeTokens({.x = expected.data(),
                         .x_stride = width,
                         .n_tokens = std::ssize(x) / width,
                         .n_heads = n_heads,
                         .head_dim = head_dim,
                         .cos = cos.data(),
                         .sin = sin.data()});
  const size_t dim = head_dim;
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t other = i % dim < dim / 2 ? i + dim / 2 : i - dim / 2;
    const double magnitude = std::fabs(static_cast<double>(x[i])) + std::fabs(static_cast<double>(x[other]));
    ASSERT_NEAR(got[i], expected[i], 3 * kUnit * magnitude) << i;
  }
}

TEST(CpuOperations, RopeOfManyTokensAgreesWithReference) {
  const int n_heads = 5, n_kv_heads = 3, head_dim = 10;
  const int64_t n_tokens = 1501;
  Rng rng(22);
  Floats cos, sin;
  for (int64_t i = 0; i < n_tokens * (head_dim / 2); ++i) {
    const double angle = 7 * rng.Uniform();
    cos.push_back(static_cast<float>(std::cos(angle)));
    sin.push_back(static_cast<float>(std::sin(angle)));
  }
  const Floats q = Normal(&rng, n_tokens * n_heads * head_dim), k = Normal(&rng, n_tokens * n_kv_heads * head_dim);
  for (const int n_threads : {1, 2, 3}) {
    const BackendPtr backend = CpuWith(n_threads);
    backend->SetRotations(cos.data(), sin.data(), n_tokens, head_dim / 2);
    Floats rotated_q = q, rotated_k = k;
    backend->Rope(rotated_q.data(), n_heads, rotated_k.data(), n_kv_heads, n_tokens, head_dim);
    ExpectRotated(rotated_q, q, n_heads, head_dim, cos, sin);
    ExpectRotated(rotated_k, k, n_kv_heads, head_dim, cos, sin);
  }
}

// ---- rows of caches

constexpr KvType kKvTypes[] = {KvType::kF32, KvType::kBF16, KvType::kInt8, KvType::kInt4};
constexpr int kRowDim = 34;
constexpr int64_t kCacheRows = 431;
constexpr KvPart kParts[] = {KvPart::kKeys, KvPart::kValues, KvPart::kKeys};

/// A cache of NaN.
std::vector<uint8_t> EmptyCache(KvType type) { return std::vector<uint8_t>(KvBytes(type, kRowDim, kCacheRows), 0xff); }

/// The largest error of a number of the row x in a cache: half a unit of bf16, or half a step of codes. `low` of codes
/// is rounded down to bf16 and the step is rounded up.
double StoreBound(KvType type, const float* x) {
  if (type == KvType::kF32) return 0;
  const auto [least, most] = std::minmax_element(x, x + kRowDim);
  const double largest = std::max(std::fabs(static_cast<double>(*least)), std::fabs(static_cast<double>(*most)));
  if (type == KvType::kBF16) return largest * std::ldexp(1.0, -8);
  const double range = static_cast<double>(*most) - static_cast<double>(*least) + largest * std::ldexp(1.0, -7);
  return range * (1 + std::ldexp(1.0, -7)) / (type == KvType::kInt8 ? 255 : 15) / 2;
}

TEST(CpuOperations, StoreRowsWritesExactlyItsRows) {
  Rng rng(23);
  const int64_t stride = kRowDim + 3, first[] = {0, 7, 30}, n_rows[] = {401, 423, 1};
  const Floats src = Normal(&rng, kCacheRows * stride);
  for (const KvType type : kKvTypes) {
    for (const int n_threads : {1, 3}) {
      std::vector<std::vector<uint8_t>> caches(3, EmptyCache(type));
      std::vector<StoreTask> tasks;
      for (size_t i = 0; i < 3; ++i) {
        tasks.push_back({src.data() + i, stride, caches[i].data(), first[i], n_rows[i], kParts[i]});
      }
      CpuWith(n_threads)->StoreRows(tasks, kRowDim, type);
      for (size_t i = 0; i < 3; ++i) {
        for (int64_t row = 0; row < kCacheRows; ++row) {
          const bool stored = row >= first[i] && row < first[i] + n_rows[i];
          const float* x = stored ? src.data() + i + (row - first[i]) * stride : nullptr;
          const double bound = stored ? StoreBound(type, x) : 0.0;
          for (int d = 0; d < kRowDim; ++d) {
            const double got = KvElement(caches[i].data(), kParts[i], type, row, kRowDim, d);
            ASSERT_EQ(std::isnan(got), !stored) << KvTypeName(type) << " task " << i << " row " << row;
            if (!stored) continue;
            ASSERT_NEAR(got, x[d], bound) << KvTypeName(type) << " task " << i << " row " << row;
          }
        }
      }
    }
  }
}

TEST(CpuOperations, CopyRowsCopiesExactlyItsRows) {
  Rng rng(24);
  const int64_t from[] = {20, 0, 3}, to[] = {1, 17, 430}, n_rows[] = {405, 411, 1};
  const Floats rows = Normal(&rng, kCacheRows * kRowDim);
  for (const KvType type : kKvTypes) {
    for (const int n_threads : {1, 3}) {
      const BackendPtr backend = CpuWith(n_threads);
      std::vector<std::vector<uint8_t>> sources(3, EmptyCache(type)), caches = sources;
      std::vector<CopyRowsTask> tasks;
      for (size_t i = 0; i < 3; ++i) {
        const StoreTask store[] = {{rows.data(), kRowDim, sources[i].data(), 0, kCacheRows, kParts[i]}};
        backend->StoreRows(store, kRowDim, type);
        tasks.push_back({sources[i].data(), from[i], caches[i].data(), to[i], n_rows[i], kParts[i]});
      }
      backend->CopyRows(tasks, kRowDim, type);
      for (size_t i = 0; i < 3; ++i) {
        for (int64_t row = 0; row < kCacheRows; ++row) {
          const bool copied = row >= to[i] && row < to[i] + n_rows[i];
          for (int d = 0; d < kRowDim; ++d) {
            const double got = KvElement(caches[i].data(), kParts[i], type, row, kRowDim, d);
            ASSERT_EQ(std::isnan(got), !copied) << KvTypeName(type) << " task " << i << " row " << row;
            if (!copied) continue;
            ASSERT_EQ(got, KvElement(sources[i].data(), kParts[i], type, row - to[i] + from[i], kRowDim, d));
          }
        }
      }
    }
  }
}

// ---- scratch

// In a product of many tokens with int8, each token takes a code per input and a scale, or more.
TEST(CpuOperations, BoundOfScratchGrowsByWhatEachTokenTakes) {
  for (const int64_t n_in : {1, 3, 1000}) {
    const BackendPtr backend = CpuWith(2);
    CallBounds bounds{.n_tokens = 1 << 20, .widest_input = n_in, .head_dim = 8, .compute = ComputeType::kInt8};
    bounds.weights = DType::kI8;
    const uint64_t of_few = backend->MaxScratchBytes(bounds);
    bounds.n_tokens *= 2;
    const uint64_t growth = backend->MaxScratchBytes(bounds) - of_few, n_more = 1 << 20;
    EXPECT_GE(growth, n_more * (n_in + sizeof(float)));
    EXPECT_LE(growth, n_more * (5 * n_in + sizeof(float)));
  }
}

// A lower limit shows that a call got as much memory as it writes.
TEST(CpuOperations, LinearTakesAtMostTheBoundOfScratch) {
  if (!testing_util::HeapBytesWork()) GTEST_SKIP() << "SKIPPED: the heap does not tell how much it holds";
  const int64_t n_in = 20011, n_out = 17;
  const std::pair<ComputeType, DType> types[] = {{ComputeType::kBF16, DType::kBF16},
                                                 {ComputeType::kInt8, DType::kI8},
                                                 {ComputeType::kBF16, DType::kI8},
                                                 {ComputeType::kBF16, DType::kU8}};
  Rng rng(26);
  for (const auto& [compute, type] : types) {
    const Weights weights(type, n_out, n_in, &rng);
    for (const int64_t n_tokens : {1, 8, 300}) {
      const BackendPtr backend = CpuWith(2);
      const CallBounds bounds{.n_tokens = n_tokens,
                              .widest_input = n_in,
                              .max_outputs = n_tokens * n_out,
                              .largest_matrix = n_in * n_out,
                              .head_dim = 8,
                              .compute = compute,
                              .weights = type};
      const Floats x = Normal(&rng, n_tokens * n_in);
      Floats out(n_tokens * n_out);
      const LinearTask tasks[] = {{weights.view(), nullptr, out.data()}};
      const size_t before = testing_util::HeapBytes();
      ASSERT_TRUE(backend->Linear(compute, {.x = x.data(), .n_tokens = n_tokens, .n_in = n_in}, tasks).ok());
      const size_t taken = testing_util::HeapBytes() - before;
      EXPECT_LE(taken, backend->MaxScratchBytes(bounds)) << n_tokens;
      EXPECT_GE(taken, x.size()) << n_tokens << " tokens";
    }
  }
}

}  // namespace
}  // namespace duo
