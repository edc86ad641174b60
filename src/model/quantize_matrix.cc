#include "model/quantize_matrix.h"

#include <algorithm>
#include <atomic>
#include <span>
#include <utility>
#include <vector>

#include "base/bf16.h"
#include "base/check.h"
#include "base/error.h"
#include "base/finite.h"
#include "base/parallel.h"
#include "kernels/weight_codes.h"

namespace duo {
namespace {

template <typename T>
void WidenRow(const void* data, int64_t row, int64_t n, float* out) {
  const T* from = static_cast<const T*>(data) + row * n;
  for (int64_t i = 0; i < n; ++i) out[i] = ToFloat(from[i]);
}

void WidenRow(const MatrixView& m, int64_t row, float* out) {
  switch (m.dtype) {
    case DType::kF32: return WidenRow<float>(m.data, row, m.n_in, out);
    case DType::kBF16: return WidenRow<bf16>(m.data, row, m.n_in, out);
    case DType::kF16: return WidenRow<f16>(m.data, row, m.n_in, out);
    default: DUO_CHECK(false, "only plain weights are quantised");
  }
}

/// Remembers the lowest row that cannot be quantised. Several threads may call Check at once.
class BadRow {
 public:
  void Check(int64_t row, const float* values, int64_t n) {
    if (AllFinite({values, static_cast<size_t>(n)})) return;
    for (int64_t known = lowest_; row < known && !lowest_.compare_exchange_weak(known, row);) {
    }
  }
  Status ToStatus() const {
    if (lowest_ == kNone) return OkStatus();
    return Corrupt("row {} has a NaN or an infinity", lowest_.load());
  }

 private:
  static constexpr int64_t kNone = INT64_MAX;
  std::atomic<int64_t> lowest_ = kNone;
};

}  // namespace

MatrixView QuantizedMatrix::view() const {
  const bool int8 = type == WeightType::kInt8;
  return {.data = codes.data(),
          .dtype = int8 ? DType::kI8 : DType::kU8,
          .scale = int8 ? scales.as<float>() : nullptr,
          .n_out = n_out,
          .n_in = n_in};
}

MatrixRows RowsOf(const MatrixView& matrix) {
  return [matrix](int64_t row, float* out) { WidenRow(matrix, row, out); };
}

Result<QuantizedMatrix> QuantizeMatrix(int64_t n_out, int64_t n_in, const MatrixRows& row_of, WeightType type,
                                       int n_threads) {
  QuantizedMatrix out;
  out.n_out = n_out, out.n_in = n_in, out.type = type;
  BadRow bad;
  if (type == WeightType::kInt8) {
    DUO_ASSIGN_OR_RETURN(out.codes, Buffer::Allocate(n_out * n_in));
    DUO_ASSIGN_OR_RETURN(out.scales, Buffer::Allocate(n_out * sizeof(float)));
    auto* codes = out.codes.as<int8_t>();
    auto* scales = out.scales.as<float>();
    std::vector<std::vector<float>> rows(n_threads, std::vector<float>(n_in));
    ParallelFor(n_threads, n_out, [&](int64_t row, int thread) {
      float* floats = rows[thread].data();
      row_of(row, floats);
      bad.Check(row, floats, n_in);
      QuantizeInt8(floats, n_in, codes + row * n_in, scales + row);
    });
    DUO_RETURN_IF_ERROR(bad.ToStatus());
    return out;
  }
  DUO_CHECK(type == WeightType::kInt4, "native weights are not quantised");
  DUO_ASSIGN_OR_RETURN(out.codes, Buffer::Allocate(Int4Bytes(n_out, n_in)));
  auto* blocks = out.codes.as<uint8_t>();
  std::vector<std::vector<float>> rows(n_threads, std::vector<float>(kInt4Rows * n_in));
  ParallelFor(n_threads, DivideUp(n_out, kInt4Rows), [&](int64_t block, int thread) {
    float* floats = rows[thread].data();
    const int64_t first = block * kInt4Rows, n = std::min(kInt4Rows, n_out - first);
    for (int64_t r = 0; r < n; ++r) {
      row_of(first + r, floats + r * n_in);
      bad.Check(first + r, floats + r * n_in, n_in);
    }
    QuantizeInt4Block(floats, n, n_in, blocks + block * Int4BlockBytes(n_in));
  });
  DUO_RETURN_IF_ERROR(bad.ToStatus());
  return out;
}

}  // namespace duo
