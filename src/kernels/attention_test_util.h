// Shared by the attention tests: arrays between NaNs, shapes, and the error bound of docs/numerics.md.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/cpu/vec/isa.h"
#include "kernels/kv_codes.h"
#include "kernels/reference/attention_reference.h"
#include "kernels/softmax_state.h"

namespace duo::attention_test {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kPoison = 96;  // NaN elements before and after every array

// An array between NaNs that starts `shift` elements after a 64-byte boundary. Every element is NaN until set.
class Guarded {
 public:
  Guarded(int64_t n, DType type, int shift) : type_(type), n_(n) {
    const size_t element = DTypeBytes(type);
    bytes_.resize((n + 2 * kPoison + 64) * element + 64);
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
    const size_t to_boundary = (64 - address % 64) % 64;
    begin_ = bytes_.data() + to_boundary + (kPoison + shift) * element;
    for (int64_t i = -kPoison; i < n + kPoison; ++i) Set(i, kNan);
  }
  void Set(int64_t i, float x) {
    if (type_ == DType::kF32) {
      std::memcpy(begin_ + i * 4, &x, 4);
    } else {
      const bf16 h = ToBf16(x);
      std::memcpy(begin_ + i * 2, &h, 2);
    }
  }
  float Get(int64_t i) const {
    if (type_ == DType::kF32) {
      float x;
      std::memcpy(&x, begin_ + i * 4, 4);
      return x;
    }
    bf16 h;
    std::memcpy(&h, begin_ + i * 2, 2);
    return ToFloat(h);
  }
  void* data() { return begin_; }
  float* floats() { return static_cast<float*>(static_cast<void*>(begin_)); }
  const float* floats() const { return static_cast<const float*>(static_cast<const void*>(begin_)); }
  int64_t size() const { return n_; }
  bool SurroundingsAreNan() const {
    for (int64_t i = 1; i <= kPoison; ++i) {
      if (!std::isnan(Get(-i)) || !std::isnan(Get(n_ - 1 + i))) return false;
    }
    return true;
  }
  Guarded Absolute() const {
    Guarded copy(n_, type_, 0);
    for (int64_t i = 0; i < n_; ++i) copy.Set(i, std::fabs(Get(i)));
    return copy;
  }

 private:
  DType type_;
  int64_t n_;
  std::vector<uint8_t> bytes_;
  uint8_t* begin_;
};

inline bool IsQuantized(KvType type) { return type == KvType::kInt8 || type == KvType::kInt4; }

// Rows of a cache between NaNs. Every row is NaN until set. Plain rows begin `shift` elements after a 64-byte boundary.
// Quantised rows begin at row `shift` of a cache whose other rows are NaN.
class TestRows {
 public:
  TestRows(int64_t n_rows, int head_dim, KvType type, int shift)
      : type_(type), head_dim_(head_dim), first_(IsQuantized(type) ? shift : 0), floats_(n_rows * head_dim, kNan) {
    const size_t element = type == KvType::kF32 ? 4 : 2, poison = kPoison * element;
    if (IsQuantized(type)) {  // the buffer ends with the last block, so asan sees reads past it
      bytes_.resize(KvBytes(type, head_dim, first_ + n_rows), 0xff);
      begin_ = bytes_.data();
      return;
    }
    bytes_.resize(KvBytes(type, head_dim, n_rows) + 2 * poison + 128, 0xff);
    const auto address = reinterpret_cast<uintptr_t>(bytes_.data()) + poison;
    begin_ = bytes_.data() + poison + (64 - address % 64) % 64 + shift * element;
  }
  int64_t n_rows() const { return size() / head_dim_; }
  int64_t size() const { return std::ssize(floats_); }
  void SetRow(int64_t row, const float* x) {
    std::copy_n(x, head_dim_, floats_.begin() + row * head_dim_);
    Encode(row);
  }
  // Element i = row * head_dim + d.
  void Set(int64_t i, float x) {
    floats_[i] = x;
    Encode(i / head_dim_);
  }
  // The element as the cache holds it.
  float Get(int64_t i) const {
    return static_cast<float>(
        KvElement(begin_, part_, type_, first_ + i / head_dim_, head_dim_, static_cast<int>(i % head_dim_)));
  }
  const uint8_t* data() const { return begin_; }
  int64_t first_row() const { return first_; }
  // The same numbers as rows of floats, or their magnitudes.
  TestRows Floats(bool absolute = false) const {
    TestRows copy(n_rows(), head_dim_, KvType::kF32, 0);
    for (int64_t row = 0; row < n_rows(); ++row) {
      std::vector<float> x = Decoded(row);
      for (float& value : x) value = absolute ? std::fabs(value) : value;
      copy.SetRow(row, x.data());
    }
    return copy;
  }
  void SetPart(KvPart part) { part_ = part; }
  // The largest step times the number of steps, over rows that are not NaN. MostLow: the largest |low| of those rows.
  double Range() const {
    return Largest([this](float step, float) { return step * (type_ == KvType::kInt8 ? 255 : 15); });
  }
  double MostLow() const {
    return Largest([](float, float low) { return std::fabs(low); });
  }
  float Low(int64_t row) const { return IsQuantized(type_) ? Params(row).second : 0.0f; }

 private:
  std::vector<float> Decoded(int64_t row) const {
    std::vector<float> x(head_dim_);
    for (int d = 0; d < head_dim_; ++d) x[d] = Get(row * head_dim_ + d);
    return x;
  }
  std::pair<float, float> Params(int64_t row) const {
    const int64_t r = first_ + row;
    const size_t row_bytes = KvRowBytes(type_, head_dim_);
    const uint8_t* p = begin_ + r / 16 * 16 * row_bytes + 16 * (row_bytes - 4) + r % 16 * 4;
    bf16 x[2];
    std::memcpy(x, p, sizeof x);
    return {ToFloat(x[0]), ToFloat(x[1])};
  }
  template <class F>
  double Largest(F of) const {
    double largest = 0;
    for (int64_t row = 0; row < n_rows() && IsQuantized(type_); ++row) {
      const auto [step, low] = Params(row);
      if (of(step, low) > largest) largest = of(step, low);  // false for NaN
    }
    return largest;
  }
  void Encode(int64_t row) {
    const float* x = floats_.data() + row * head_dim_;
    if (IsQuantized(type_)) return QuantizeRow(x, {part_, type_, head_dim_}, begin_, first_ + row);
    uint8_t* to = begin_ + row * KvRowBytes(type_, head_dim_);
    for (int d = 0; d < head_dim_; ++d) {
      const bf16 half = ToBf16(x[d]);
      if (type_ == KvType::kF32) {
        std::memcpy(to + 4 * d, x + d, 4);
      } else {
        std::memcpy(to + 2 * d, &half, 2);
      }
    }
  }
  KvPart part_ = KvPart::kKeys;
  KvType type_;
  int head_dim_;
  int64_t first_;
  std::vector<float> floats_;
  std::vector<uint8_t> bytes_;
  uint8_t* begin_;
};

struct Shape {
  int head_dim = 64;
  int group = 1;
  int64_t n_rows = 64;  // decode
  KvType kv_type = KvType::kBF16;
  ComputeType compute = ComputeType::kBF16;
  int shift = 0;  // elements after an aligned address
};

/// One token of one head. Prefill sets the strides and the tokens.
inline AttentionShape ShapeOf(const Shape& s) {
  return {.group = s.group,
          .head_dim = s.head_dim,
          .kv_type = s.kv_type,
          .compute = s.compute,
          .scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim))};
}

inline std::string Describe(const Shape& s) {
  return "head_dim " + std::to_string(s.head_dim) + " group " + std::to_string(s.group) + " rows " +
         std::to_string(s.n_rows) + " kv " + KvTypeName(s.kv_type) + " compute " + ComputeTypeName(s.compute) +
         " shift " + std::to_string(s.shift);
}

inline void FillNormal(Guarded* x, double deviation, Rng* rng) {
  for (int64_t i = 0; i < x->size(); ++i) x->Set(i, rng->Normal() * deviation);
}

inline void SetNormalRow(TestRows* x, int64_t row, double deviation, Rng* rng) {
  std::vector<float> values(x->size() / x->n_rows());
  for (float& value : values) value = rng->Normal() * deviation;
  x->SetRow(row, values.data());
}

inline void FillNormal(TestRows* x, double deviation, Rng* rng) {
  for (int64_t r = 0; r < x->n_rows(); ++r) SetNormalRow(x, r, deviation, rng);
}

// Largest products over a call's queries and keys, from which the bound follows.
struct Products {
  double largest = 0;  // scale * sum_d |q_d k_d|; for a quantised key |k_d| is |low| + |step code|
  double rounded = 0;  // scale * max_d |q_d| / 254 * sum_d |k_d|: the error of rounding the query to 8 bits
};

// docs/numerics.md, "Attention": |out - exact| <= weighted |v| * RelativeBound + AbsoluteBound.
inline double RelativeBound(const Shape& s, int64_t n_keys, const Products& p, bool q_is_exact) {
  const double u = std::ldexp(1.0, -24), u16 = std::ldexp(1.0, -8);
  const bool pairs = s.compute == ComputeType::kBF16 && s.kv_type == KvType::kBF16;
  const bool integers = s.compute == ComputeType::kBF16 && IsQuantized(s.kv_type);
  const double score_error = p.largest * (s.head_dim * u + (pairs && !q_is_exact ? u16 : 0.0) + 8 * u) +
                             (integers && !q_is_exact ? p.rounded : 0.0);
  return 2 * score_error + (n_keys + 64.0) * u + (pairs ? u16 : 0.0);
}

// Prefill multiplies the values of a quantised cache as bf16 numbers where decode multiplies integers. It rounds both
// the values and the weights to bf16.
inline double PrefillBound(const Shape& s) {
  return s.compute == ComputeType::kBF16 && IsQuantized(s.kv_type) ? std::ldexp(2.0, -8) : 0.0;
}

// The error of float sums of low + step * code, from the ranges of the values.
inline double AbsoluteBound(const Shape& s, const TestRows& v, int64_t n_keys) {
  if (!IsQuantized(s.kv_type)) return 0;
  return (v.MostLow() + v.Range()) * (n_keys + 64.0) * std::ldexp(1.0, -24);
}

// The additional error of decode, which rounds weights to 14 bits of the largest in their block.
// sum: the sum of exp(score - largest score).
inline double WeightsBound(const Shape& s, const TestRows& v, int64_t n_keys, double sum) {
  if (!IsQuantized(s.kv_type) || s.compute == ComputeType::kF32) return 0;
  return v.Range() * n_keys / (32766 * sum);
}

// Queries that every kernel represents exactly: bf16 numbers, or for quantised caches bytes of which one is 127.
inline void FillExactQueries(Guarded* q, const Shape& s, double deviation, Rng* rng) {
  for (int64_t i = 0; i < q->size(); ++i) {
    const double byte = i % s.head_dim == 3 ? 127 : static_cast<double>(rng->Below(255)) - 127;
    q->Set(i, IsQuantized(s.kv_type) ? static_cast<float>(byte / 64 * deviation)
                                     : ToFloat(ToBf16(static_cast<float>(rng->Normal() * deviation))));
  }
}

// Ignores rows of NaN, which no query sees.
inline Products LargestProducts(const Shape& s, const Guarded& q, const TestRows& k, int64_t n_queries,
                                int64_t n_rows) {
  const int64_t dim = s.head_dim;
  const TestRows floats = k.Floats();
  const auto* keys = reinterpret_cast<const float*>(floats.data());
  std::vector<double> parts(dim);  // |low| + |step code| of a row
  Products largest;
  for (int64_t r = 0; r < n_rows; ++r) {
    const double low = std::fabs(double{k.Low(r)});
    double magnitude = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const double x = keys[r * dim + d];
      parts[d] = low + std::fabs(x - k.Low(r));
      magnitude += std::fabs(x);
    }
    for (int64_t i = 0; i < n_queries; ++i) {
      const float* from = q.floats() + i * dim;
      double product = 0, most = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const double x = std::fabs(double{from[d]});
        product += x * parts[d];
        most = std::max(most, x);
      }
      if (product > largest.largest) largest.largest = product;  // false for rows of NaN
      if (most * magnitude / 254 > largest.rounded) largest.rounded = most * magnitude / 254;
    }
  }
  largest.largest /= std::sqrt(static_cast<double>(s.head_dim));
  largest.rounded /= std::sqrt(static_cast<double>(s.head_dim));
  return largest;
}

// `s` with every type of cache and of products.
inline std::vector<Shape> TypesOf(Shape s) {
  std::vector<Shape> shapes;
  for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kInt8, KvType::kInt4}) {
    for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
      if (type == KvType::kF32 && compute == ComputeType::kBF16) continue;  // the same products
      s.kv_type = type;
      s.compute = compute;
      shapes.push_back(s);
    }
  }
  return shapes;
}

// A softmax state that has seen nothing yet.
struct State {
  explicit State(const Shape& s)
      : max(s.group, DType::kF32, s.shift),
        sum(s.group, DType::kF32, s.shift),
        acc(int64_t{s.group} * s.head_dim, DType::kF32, s.shift) {
    for (int g = 0; g < s.group; ++g) max.Set(g, kNegInf), sum.Set(g, 0);
    for (int64_t i = 0; i < acc.size(); ++i) acc.Set(i, 0);
  }
  SoftmaxStates states() { return {.max = max.floats(), .sum = sum.floats(), .acc = acc.floats()}; }
  Guarded max, sum, acc;
};

inline std::vector<Isa> LevelsOfThisCpu() {
  std::vector<Isa> levels;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16}) {
    if (isa <= DetectIsa()) levels.push_back(isa);
  }
  return levels;
}

}  // namespace duo::attention_test
