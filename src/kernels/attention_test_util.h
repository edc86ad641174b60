// What the attention tests share: arrays between NaNs, shapes, and the error bound of docs/numerics.md.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/cpu/isa.h"
#include "kernels/softmax_state.h"

namespace duo::attention_test {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr int kPoison = 96;  // elements of NaN around every array

// An array between NaNs that starts `shift` elements off a 64-byte boundary; every element is NaN until set.
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

struct Shape {
  int head_dim = 64;
  int group = 1;
  int64_t n_rows = 64;  // decode
  DType kv_type = DType::kBF16;
  AttentionMath math = AttentionMath::kBF16;
  int shift = 0;  // elements off alignment
};

inline std::string Describe(const Shape& s) {
  return "head_dim " + std::to_string(s.head_dim) + " group " + std::to_string(s.group) + " rows " +
         std::to_string(s.n_rows) + " kv " + DTypeName(s.kv_type) +
         (s.math == AttentionMath::kBF16 ? " math bf16" : " math f32") + " shift " + std::to_string(s.shift);
}

inline void FillNormal(Guarded* x, double deviation, Rng* rng) {
  for (int64_t i = 0; i < x->size(); ++i) x->Set(i, static_cast<float>(rng->Normal() * deviation));
}

// docs/numerics.md, "Attention": |out - exact| <= weighted |v| * RelativeBound, where
// largest_product = max over queries and keys of scale * sum_d |q_d k_d|.
inline double RelativeBound(const Shape& s, int64_t n_keys, double largest_product, bool q_is_bf16) {
  const double u = std::ldexp(1.0, -24), u16 = std::ldexp(1.0, -9);
  const bool pairs = s.math == AttentionMath::kBF16 && s.kv_type == DType::kBF16;
  const double score_error = largest_product * (s.head_dim * u + (pairs && !q_is_bf16 ? u16 : 0.0) + 8 * u);
  return 2 * score_error + (static_cast<double>(n_keys) + 64) * u + (pairs ? 2 * u16 : 0.0);
}

// max over queries and keys of scale * sum_d |q_d k_d|; rows of NaN, which nobody sees, do not count.
inline double LargestProduct(const Shape& s, const Guarded& q, const Guarded& k, int64_t n_queries, int64_t n_rows) {
  double largest = 0;
  for (int64_t i = 0; i < n_queries; ++i) {
    for (int64_t r = 0; r < n_rows; ++r) {
      double product = 0;
      for (int d = 0; d < s.head_dim; ++d)
        product += std::fabs(double{q.Get(i * s.head_dim + d)} * k.Get(r * s.head_dim + d));
      if (product > largest) largest = product;  // false for rows of NaN, which nobody sees
    }
  }
  return largest / std::sqrt(static_cast<double>(s.head_dim));
}

// Every type of cache and of products.
inline std::vector<Shape> TypesOf(Shape s) {
  std::vector<Shape> shapes;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const AttentionMath math : {AttentionMath::kF32, AttentionMath::kBF16}) {
      s.kv_type = type;
      s.math = math;
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
  Guarded max, sum, acc;
};

inline std::vector<Isa> LevelsOfThisCpu() {
  std::vector<Isa> levels;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa <= DetectIsa()) levels.push_back(isa);
  }
  return levels;
}

}  // namespace duo::attention_test
