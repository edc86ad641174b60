#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <dnnl.hpp>
#include <new>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/check.h"
#include "base/matrix_view.h"
#include "base/parallel.h"

namespace duo {
namespace {

using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

// A panel of converted weights, and a block of converted activations: large enough that a panel gives every thread
// work, small enough for a shared cache.
constexpr size_t kPanelBytes = size_t{16} << 20;
// oneDNN's own scratch, as planned for: 128 KiB per thread was seen. Another CPU's kernels may take more.
constexpr size_t kScratchpadBytesPerThread = size_t{512} << 10;
// Panels have whole register tiles of outputs (oneDNN blocks n_out by 64).
constexpr int64_t kPanelRowMultiple = 64;
// Distinct shapes of one model: about six matrices, times whole chunk, last chunk, panels and their remainders.
constexpr size_t kMaxPrimitives = 64;

Type ToDnnl(DType type) { return type == DType::kF32 ? Type::f32 : type == DType::kI8 ? Type::s8 : Type::bf16; }

struct Key {
  int64_t m, n, k, out_stride;
  DType type;
  WeightLayout layout;
  bool bias, accumulate;
  bool operator==(const Key&) const = default;
};

struct Entry {
  Key key;
  dnnl::matmul::primitive_desc desc;
  dnnl::matmul primitive;
  uint64_t last_use = 0;
};

int64_t RowsIn(size_t bytes, int64_t n_in, DType type, int64_t multiple) {
  const auto rows = static_cast<int64_t>(bytes / (static_cast<size_t>(n_in) * DTypeBytes(type)));
  return rows >= multiple ? rows / multiple * multiple : std::max<int64_t>(rows, 1);
}

Status Grow(Buffer* buffer, size_t bytes) {
  if (buffer->bytes() >= bytes) return OkStatus();
  *buffer = Buffer();  // the old block goes first: never both
  DUO_ASSIGN_OR_RETURN(*buffer, Buffer::Allocate(bytes));
  return OkStatus();
}

const void* RowPtr(const void* base, DType type, int64_t row, int64_t n_in) {
  if (type == DType::kU8)
    return static_cast<const uint8_t*>(base) + static_cast<size_t>(row / kInt4Rows) * Int4BlockBytes(n_in);
  return static_cast<const uint8_t*>(base) + static_cast<size_t>(row * n_in) * DTypeBytes(type);
}

// One row of a matrix of any type.
struct SourceRow {
  const void* data;  // of int4: the block
  DType type;
  float scale;       // of int8
  int64_t in_block;  // row of an int4 block
};

// Elements [first, first + n) as floats; first a multiple of 64.
void WidenRow(const DenseKernels& kernels, const SourceRow& row, int64_t first, int64_t n, float* out) {
  if (row.type == DType::kU8) {
    kernels.unpack4(static_cast<const uint8_t*>(row.data), row.in_block, first, n, out);
    return;
  }
  kernels.widen(static_cast<const uint8_t*>(row.data) + static_cast<size_t>(first) * DTypeBytes(row.type), row.type,
                out, n);
  if (row.type != DType::kI8) return;
  for (int64_t i = 0; i < n; ++i) out[i] *= row.scale;
}

// Through floats, a piece at a time.
void RowToBf16(const DenseKernels& kernels, const SourceRow& row, int64_t n, bf16* to) {
  constexpr int64_t kPiece = 1024;
  float wide[kPiece];
  for (int64_t i = 0; i < n; i += kPiece) {
    const int64_t len = std::min(kPiece, n - i);
    WidenRow(kernels, row, i, len, wide);
    kernels.f32_to_bf16(wide, to + i, len);
  }
}

}  // namespace

class GemmRunner::Impl {
 public:
  Impl(int n_threads, Isa isa)
      : n_threads_(n_threads), kernels_(DenseKernelsFor(isa)), has_bf16_(isa >= Isa::kAvx512Bf16) {}

  Status Run(const Gemm& g);
  size_t scratch_bytes() const { return tokens_.bytes() + panel_.bytes() + scratchpad_.bytes(); }

 private:
  // Both operands already of the same type.
  Status Multiply(const Gemm& g);
  Status MultiplyPanels(const Gemm& g, DType type);
  // Throws dnnl::error.
  Entry& Primitive(const Key& key);
  // to[n_rows, n_cols] of `type` = from[n_rows, n_cols], whose rows are from_stride elements apart; rows over threads.
  // scale: of rows of int8.
  void Convert(const void* from, DType from_type, int64_t from_stride, const float* scale, void* to, DType type,
               int64_t n_rows, int64_t n_cols);
  // int8 by int8: integer sums of a panel of outputs, then scales, bias and what was there.
  Status MultiplyInt8(const Gemm& g);

  int n_threads_;
  const DenseKernels& kernels_;
  bool has_bf16_;
  std::optional<dnnl::engine> engine_;
  std::optional<dnnl::stream> stream_;
  std::vector<Entry> entries_;
  uint64_t clock_ = 0;
  Buffer tokens_, panel_, scratchpad_;
};

Entry& GemmRunner::Impl::Primitive(const Key& key) {
  ++clock_;
  for (Entry& entry : entries_) {
    if (entry.key == key) {
      entry.last_use = clock_;
      return entry;
    }
  }
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (key.accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attr.set_post_ops(ops);
  }
  const Type type = ToDnnl(key.type);
  const dnnl::memory::desc x({key.m, key.k}, type, Tag::ab);
  // [n_out, n_in] row-major is seen as its transpose.
  const dnnl::memory::desc w({key.k, key.n}, type, key.layout == WeightLayout::kOutIn ? Tag::ba : Tag::ab);
  const dnnl::memory::desc out({key.m, key.n}, Type::f32, dnnl::memory::dims{key.out_stride, 1});
  const dnnl::matmul::desc desc =
      key.bias ? dnnl::matmul::desc(x, w, {{1, key.n}, Type::f32, Tag::ab}, out) : dnnl::matmul::desc(x, w, out);
  Entry entry;
  entry.key = key;
  entry.desc = dnnl::matmul::primitive_desc(desc, attr, *engine_);
  entry.primitive = dnnl::matmul(entry.desc);
  entry.last_use = clock_;
  if (entries_.size() < kMaxPrimitives) {
    entries_.push_back(std::move(entry));
    return entries_.back();
  }
  auto oldest = std::min_element(entries_.begin(), entries_.end(),
                                 [](const Entry& a, const Entry& b) { return a.last_use < b.last_use; });
  *oldest = std::move(entry);
  return *oldest;
}

Status GemmRunner::Impl::Multiply(const Gemm& g) {
  Entry& entry =
      Primitive({g.n_tokens, g.n_out, g.n_in, g.out_stride, g.x_type, g.w_layout, g.bias != nullptr, g.accumulate});
  const size_t bytes = entry.desc.scratchpad_desc().get_size();
  DUO_RETURN_IF_ERROR(Grow(&scratchpad_, bytes));
  const auto memory = [&](const dnnl::memory::desc& desc, const void* data) {
    return dnnl::memory(desc, *engine_, const_cast<void*>(data));
  };
  std::unordered_map<int, dnnl::memory> args;
  args.emplace(DNNL_ARG_SRC, memory(entry.desc.src_desc(), g.x));
  args.emplace(DNNL_ARG_WEIGHTS, memory(entry.desc.weights_desc(), g.w));
  args.emplace(DNNL_ARG_DST, memory(entry.desc.dst_desc(), g.out));
  if (g.bias != nullptr) args.emplace(DNNL_ARG_BIAS, memory(entry.desc.bias_desc(), g.bias));
  if (bytes != 0) args.emplace(DNNL_ARG_SCRATCHPAD, memory(entry.desc.scratchpad_desc(), scratchpad_.data()));
  entry.primitive.execute(*stream_, args);
  stream_->wait();
  return OkStatus();
}

void GemmRunner::Impl::Convert(const void* from, DType from_type, int64_t from_stride, const float* scale, void* to,
                               DType type, int64_t n_rows, int64_t n_cols) {
  ParallelFor(n_threads_, n_rows, [&](int64_t row, int) {
    const SourceRow source = {RowPtr(from, from_type, row, from_stride), from_type,
                              scale == nullptr ? 1.0f : scale[row], row % kInt4Rows};
    auto* target = const_cast<void*>(RowPtr(to, type, row, n_cols));
    if (type == DType::kF32) {
      WidenRow(kernels_, source, 0, n_cols, static_cast<float*>(target));
    } else if (from_type == DType::kF32) {
      kernels_.f32_to_bf16(static_cast<const float*>(source.data), static_cast<bf16*>(target), n_cols);
    } else {
      RowToBf16(kernels_, source, n_cols, static_cast<bf16*>(target));
    }
  });
}

Status GemmRunner::Impl::MultiplyInt8(const Gemm& g) {
  const size_t row_bytes = static_cast<size_t>(g.n_tokens) * sizeof(float);
  const int64_t panel = std::min(
      g.n_out, std::max<int64_t>(kPanelRowMultiple, RowsIn(kPanelBytes, g.n_tokens, DType::kF32, kPanelRowMultiple)));
  DUO_RETURN_IF_ERROR(Grow(&panel_, static_cast<size_t>(panel) * row_bytes));
  auto* sums = panel_.as<float>();
  for (int64_t o = 0; o < g.n_out; o += panel) {
    const int64_t n = std::min(panel, g.n_out - o);
    Gemm part = g;
    part.n_out = n;
    part.w = RowPtr(g.w, g.w_type, o, g.n_in);
    part.bias = nullptr;
    part.out = sums;
    part.out_stride = n;
    part.accumulate = false;
    DUO_RETURN_IF_ERROR(Multiply(part));
    ParallelFor(n_threads_, g.n_tokens, [&](int64_t t, int) {
      const float* from = sums + t * n;
      const float* scale = g.w_scale + o;
      float* to = g.out + t * g.out_stride + o;
      const float x_scale = g.x_scale[t];
      for (int64_t i = 0; i < n; ++i) {
        const float bias = g.bias == nullptr ? 0.0f : g.bias[o + i];
        const float before = g.accumulate ? to[i] : 0.0f;
        to[i] = from[i] * (scale[i] * x_scale) + bias + before;
      }
    });
  }
  return OkStatus();
}

Status GemmRunner::Impl::MultiplyPanels(const Gemm& g, DType type) {
  const bool convert_x = g.x_type != type, convert_w = g.w_type != type;
  const size_t row_bytes = static_cast<size_t>(g.n_in) * DTypeBytes(type);
  const int64_t block = convert_x ? std::min(g.n_tokens, RowsIn(kPanelBytes, g.n_in, type, 1)) : g.n_tokens;
  const int64_t panel = convert_w ? std::min(g.n_out, RowsIn(kPanelBytes, g.n_in, type, kPanelRowMultiple)) : g.n_out;
  if (convert_x) DUO_RETURN_IF_ERROR(Grow(&tokens_, static_cast<size_t>(block) * row_bytes));
  if (convert_w) DUO_RETURN_IF_ERROR(Grow(&panel_, static_cast<size_t>(panel) * row_bytes));
  for (int64_t t = 0; t < g.n_tokens; t += block) {
    Gemm part = g;
    part.x = RowPtr(g.x, g.x_type, t, g.n_in);
    part.x_type = type;
    part.w_type = type;
    part.n_tokens = std::min(block, g.n_tokens - t);
    if (convert_x) {
      Convert(part.x, g.x_type, g.n_in, nullptr, tokens_.data(), type, part.n_tokens, g.n_in);
      part.x = tokens_.data();
    }
    for (int64_t o = 0; o < g.n_out; o += panel) {
      part.n_out = std::min(panel, g.n_out - o);
      part.w = g.w_layout == WeightLayout::kOutIn ? RowPtr(g.w, g.w_type, o, g.n_in) : RowPtr(g.w, g.w_type, o, 1);
      part.bias = g.bias == nullptr ? nullptr : g.bias + o;
      part.out = g.out + t * g.out_stride + o;
      if (convert_w && g.w_layout == WeightLayout::kOutIn) {
        const float* scale = g.w_scale == nullptr ? nullptr : g.w_scale + o;
        Convert(part.w, g.w_type, g.n_in, scale, panel_.data(), type, part.n_out, g.n_in);
      } else if (convert_w) {
        Convert(part.w, g.w_type, g.n_out, nullptr, panel_.data(), type, g.n_in, part.n_out);
      }
      if (convert_w) part.w = panel_.data();
      DUO_RETURN_IF_ERROR(Multiply(part));
    }
  }
  return OkStatus();
}

Status GemmRunner::Impl::Run(const Gemm& g) {
  const bool quantized = g.w_type == DType::kI8 || g.w_type == DType::kU8;
  DUO_CHECK(g.x_type == DType::kF32 || g.x_type == DType::kBF16 || (g.x_type == DType::kI8 && g.w_type == DType::kI8),
            "activations are f32, bf16, or int8 with int8 weights");
  DUO_CHECK(!quantized || g.w_layout == WeightLayout::kOutIn, "quantised weights are multiplied forward only");
  DUO_CHECK(g.n_in > 0 && g.out_stride >= g.n_out, "a product needs inputs, and rows of the output must not overlap");
  if (g.n_tokens <= 0 || g.n_out <= 0) return OkStatus();
  SetLibraryThreads(n_threads_);
  try {
    if (!engine_.has_value()) {
      engine_.emplace(dnnl::engine::kind::cpu, 0);
      stream_.emplace(*engine_);
    }
    if (g.x_type == DType::kI8) return MultiplyInt8(g);
    const DType type = has_bf16_ ? g.x_type : DType::kF32;
    if (g.x_type == type && g.w_type == type) return Multiply(g);
    return MultiplyPanels(g, type);
  } catch (const dnnl::error& e) {
    return Status(StatusCode::kInternal, "oneDNN refused a matrix product of " + std::to_string(g.n_tokens) +
                                             " tokens, [" + std::to_string(g.n_out) + ", " + std::to_string(g.n_in) +
                                             "]: " + e.what());
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "no memory for oneDNN's own tables");
  }
}

void RunBlockGemm(const BlockGemm& g) {
  SetLibraryThreads(1);
  const auto letter = [](Transpose op) { return op == Transpose::kYes ? 'T' : 'N'; };
  const dnnl_status_t status = dnnl_sgemm(letter(g.a_op), letter(g.b_op), g.m, g.n, g.k, g.alpha, g.a, g.a_stride, g.b,
                                          g.b_stride, g.beta, g.c, g.c_stride);
  DUO_CHECK(status == dnnl_success, "sizes and strides of a block are the caller's own");
}

GemmRunner::GemmRunner(int n_threads, Isa isa) : impl_(std::make_unique<Impl>(n_threads, isa)) {}
GemmRunner::~GemmRunner() = default;

Status GemmRunner::Run(const Gemm& gemm) { return impl_->Run(gemm); }

size_t GemmRunner::MaxScratchBytes(Isa isa, int n_threads, DType x_type, DType w_type) {
  if (x_type == DType::kI8) return kPanelBytes + static_cast<size_t>(n_threads) * kScratchpadBytesPerThread;
  const DType type = isa >= Isa::kAvx512Bf16 ? x_type : DType::kF32;
  return (x_type != type ? kPanelBytes : 0) + (w_type != type ? kPanelBytes : 0) +
         static_cast<size_t>(n_threads) * kScratchpadBytesPerThread;
}

size_t GemmRunner::scratch_bytes() const { return impl_->scratch_bytes(); }

}  // namespace duo
