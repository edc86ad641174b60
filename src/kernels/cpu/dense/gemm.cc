#include "kernels/cpu/dense/gemm.h"

#include <algorithm>
#include <cstring>
#include <dnnl.hpp>
#include <exception>
#include <mutex>
#include <new>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/align.h"
#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/parallel.h"
#include "kernels/cpu/dense/convert_rows.h"

namespace duo {
namespace {

using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

// Bytes of activations converted at a time. A block of this size stays in a shared cache.
constexpr size_t kTokensBytes = size_t{16} << 20;
// Bytes of a task's weights, and bytes of its results. Each is about half a second-level cache.
constexpr size_t kPanelBytes = size_t{1} << 20;
// Bytes planned for oneDNN's own scratch for one product on one thread. It took 128 KiB with bf16 and 256 KiB with
// floats; the kernels for another CPU may take more.
constexpr size_t kScratchpadBytes = size_t{1} << 20;
// Blocks have whole register tiles of outputs. oneDNN blocks n_out by 64.
constexpr int64_t kOutputMultiple = 64;
// Enough tasks per thread that a late thread does not keep the others waiting.
constexpr int64_t kBlocksPerThread = 4;
// A task below this takes less than 0.1 ms, and the call into the library is then some per cent of it.
constexpr int64_t kTaskOperations = 16'000'000;
// Blocks of tokens have whole register tiles, and enough tokens to justify reading the weights.
constexpr int64_t kTokenMultiple = 64;
// A model has about six matrices, each with a whole and a last chunk, each of these with a whole and a last block.
constexpr size_t kMaxPrimitives = 128;

Type ToDnnl(DType type) { return type == DType::kF32 ? Type::f32 : type == DType::kI8 ? Type::s8 : Type::bf16; }

// x is [m, k], w is [n, k] or [k, n], and the result is [m, n], all without gaps between rows. With gaps oneDNN chooses
// a slower implementation. For bf16 and 16 / 64 / 512 tokens on one Zen 4 core it reaches 120 / 184 / 213 GFLOP/s
// without gaps, and 68 / 137 / 195 with gaps between the rows of the result.
struct Key {
  int64_t m, n, k;
  DType type;
  WeightLayout layout;
  bool operator==(const Key&) const = default;
};

struct Entry {
  Key key;
  dnnl::matmul::primitive_desc desc;
  dnnl::matmul primitive;
  uint64_t last_use = 0;
};

/// A product cut into blocks, each of which is one task. The activations already have the type that is multiplied.
struct Product {
  Gemm g;
  bool copy_w;                          // each block's weights are first copied into a panel, converted or without gaps
  int64_t block_tokens, block_outputs;  // of every block except the last ones
  int64_t n_token_blocks() const { return DivideUp(g.n_tokens, block_tokens); }
  int64_t n_output_blocks() const { return DivideUp(g.n_out, block_outputs); }
  int64_t tokens_of(int64_t block) const { return std::min(block_tokens, g.n_tokens - block * block_tokens); }
  int64_t outputs_of(int64_t block) const { return std::min(block_outputs, g.n_out - block * block_outputs); }
};

// Number of outputs whose weights fit kPanelBytes: a multiple of the register tile, and at least one tile.
int64_t PanelOutputs(int64_t n_in, DType type) {
  const int64_t rows = kPanelBytes / (n_in * DTypeBytes(type));
  return std::max(rows / kOutputMultiple * kOutputMultiple, kOutputMultiple);
}

Status Grow(Buffer* buffer, size_t bytes) {
  if (buffer->bytes() >= bytes) return OkStatus();
  *buffer = Buffer();  // free the old block first, so that both never exist together
  DUO_ASSIGN_OR_RETURN(*buffer, Buffer::Allocate(bytes));
  return OkStatus();
}

SourceRows InputRows(const Gemm& g) { return {.data = g.x, .type = g.x_type, .stride = g.n_in}; }

// For weights with layout kOutIn.
SourceRows WeightRows(const Gemm& g) { return {.data = g.w, .type = g.w_type, .stride = g.n_in, .scale = g.w_scale}; }

}  // namespace

class GemmRunner::Impl {
 public:
  Impl(int n_threads, Isa isa)
      : n_threads_(n_threads), kernels_(DenseKernelsFor(isa)), has_bf16_(isa >= Isa::kAvx512Bf16) {}

  Status Run(const Gemm& g);
  size_t scratch_bytes() const { return tokens_.bytes() + panels_.bytes() + results_.bytes() + scratchpads_.bytes(); }

 private:
  // g.x_type must be the type that is multiplied. Throws dnnl::error and std::bad_alloc.
  Status Multiply(const Gemm& g);
  Product Cut(const Gemm& g) const;
  // Creates what the tasks of a product need: primitives, and scratch for every thread. Throws like Multiply.
  Status Prepare(const Product& product);
  // Throws like Multiply.
  void RunBlock(const Product& product, int64_t token_block, int64_t output_block, int thread);
  void ConvertWeights(const Gemm& g, int64_t first_output, int64_t n_outputs, void* to) const;
  void Execute(const Entry& entry, const void* x, const void* w, float* result, int thread);
  Entry* Find(const Key& key);
  const Entry& FindOrMake(const Key& key);
  Entry Make(const Key& key) const;

  int n_threads_;
  const DenseKernels& kernels_;
  bool has_bf16_;
  std::optional<dnnl::engine> engine_;
  std::vector<dnnl::stream> streams_;  // one per thread
  std::vector<Entry> entries_;
  uint64_t clock_ = 0;
  Buffer tokens_;                                                     // converted activations
  Buffer panels_, results_, scratchpads_;                             // for all threads
  size_t panel_bytes_ = 0, result_bytes_ = 0, scratchpad_bytes_ = 0;  // per thread
};

Entry* GemmRunner::Impl::Find(const Key& key) {
  for (Entry& entry : entries_) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

Entry GemmRunner::Impl::Make(const Key& key) const {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const Type type = ToDnnl(key.type);
  // oneDNN sees row-major [n_out, n_in] as its transpose.
  const Tag w_tag = key.layout == WeightLayout::kOutIn ? Tag::ba : Tag::ab;
  Entry entry;
  entry.key = key;
  entry.desc =
      dnnl::matmul::primitive_desc(dnnl::matmul::desc({{key.m, key.k}, type, Tag::ab}, {{key.k, key.n}, type, w_tag},
                                                      {{key.m, key.n}, Type::f32, Tag::ab}),
                                   attr, *engine_);
  entry.primitive = dnnl::matmul(entry.desc);
  return entry;
}

const Entry& GemmRunner::Impl::FindOrMake(const Key& key) {
  Entry* entry = Find(key);
  if (entry == nullptr && entries_.size() < kMaxPrimitives) {
    entries_.push_back(Make(key));
    entry = &entries_.back();
  } else if (entry == nullptr) {
    entry = &*std::min_element(entries_.begin(), entries_.end(),
                               [](const Entry& a, const Entry& b) { return a.last_use < b.last_use; });
    *entry = Make(key);
  }
  entry->last_use = ++clock_;
  return *entry;
}

Product GemmRunner::Impl::Cut(const Gemm& g) const {
  const bool copy_w = g.w_type != g.x_type || g.w_layout == WeightLayout::kInOut;
  const int64_t operations = 2 * g.n_tokens * g.n_out * g.n_in;
  const int64_t per_thread = std::clamp<int64_t>(operations / (kTaskOperations * n_threads_), 1, kBlocksPerThread);
  const int64_t n_tasks = n_threads_ == 1 ? 1 : per_thread * n_threads_;
  Product product{g, copy_w, g.n_tokens, g.n_out};
  product.block_outputs =
      std::min({g.n_out, PanelOutputs(g.n_in, g.x_type), RoundUp(DivideUp(g.n_out, n_tasks), kOutputMultiple)});
  // Where outputs alone give too few tasks, tokens are cut as well. They are not cut where each block of tokens would
  // copy the weights again.
  const int64_t missing = DivideUp(n_tasks, product.n_output_blocks());
  if (missing > 1 && !copy_w) product.block_tokens = RoundUp(DivideUp(g.n_tokens, missing), kTokenMultiple);
  constexpr int64_t kPanelFloats = kPanelBytes / sizeof(float);
  const int64_t fit = kPanelFloats / product.block_outputs;
  product.block_tokens = std::clamp<int64_t>(fit, 1, std::min(product.block_tokens, g.n_tokens));
  return product;
}

Status GemmRunner::Impl::Prepare(const Product& product) {
  const Gemm& g = product.g;
  const LibraryOnOneThread alone;
  if (!engine_.has_value()) {
    engine_.emplace(dnnl::engine::kind::cpu, 0);
    for (int thread = 0; thread < n_threads_; ++thread) streams_.emplace_back(*engine_);
  }
  for (const int64_t tokens : {product.block_tokens, product.tokens_of(product.n_token_blocks() - 1)}) {
    for (const int64_t outputs : {product.block_outputs, product.outputs_of(product.n_output_blocks() - 1)}) {
      const Entry& entry = FindOrMake({tokens, outputs, g.n_in, g.x_type, g.w_layout});
      scratchpad_bytes_ = std::max(scratchpad_bytes_, RoundUp(entry.desc.scratchpad_desc().get_size(), kPageBytes));
    }
  }
  const size_t panel = product.block_outputs * g.n_in * DTypeBytes(g.x_type);
  const size_t result = product.block_outputs * product.block_tokens * sizeof(float);
  if (product.copy_w) panel_bytes_ = std::max(panel_bytes_, RoundUp(panel, kPageBytes));
  result_bytes_ = std::max(result_bytes_, RoundUp(result, kPageBytes));
  DUO_RETURN_IF_ERROR(Grow(&panels_, panel_bytes_ * n_threads_));
  DUO_RETURN_IF_ERROR(Grow(&results_, result_bytes_ * n_threads_));
  return Grow(&scratchpads_, scratchpad_bytes_ * n_threads_);
}

void GemmRunner::Impl::ConvertWeights(const Gemm& g, int64_t first_output, int64_t n_outputs, void* to) const {
  auto* rows = static_cast<uint8_t*>(to);
  if (g.w_layout == WeightLayout::kOutIn) {
    for (int64_t o = 0; o < n_outputs; ++o) {
      ConvertRow(kernels_, WeightRows(g), first_output + o, g.n_in, g.x_type, rows + o * g.n_in * DTypeBytes(g.x_type));
    }
    return;
  }
  const auto* columns = static_cast<const uint8_t*>(g.w) + first_output * DTypeBytes(g.w_type);
  const SourceRows from{.data = columns, .type = g.w_type, .stride = g.n_out};
  for (int64_t i = 0; i < g.n_in; ++i) {
    ConvertRow(kernels_, from, i, n_outputs, g.x_type, rows + i * n_outputs * DTypeBytes(g.x_type));
  }
}

void GemmRunner::Impl::Execute(const Entry& entry, const void* x, const void* w, float* result, int thread) {
  const auto memory = [&](const dnnl::memory::desc& desc, const void* data) {
    return dnnl::memory(desc, *engine_, const_cast<void*>(data));
  };
  std::unordered_map<int, dnnl::memory> args;
  args.emplace(DNNL_ARG_SRC, memory(entry.desc.src_desc(), x));
  args.emplace(DNNL_ARG_WEIGHTS, memory(entry.desc.weights_desc(), w));
  args.emplace(DNNL_ARG_DST, memory(entry.desc.dst_desc(), result));
  if (const dnnl::memory::desc scratchpad = entry.desc.scratchpad_desc(); scratchpad.get_size() != 0) {
    auto* own = scratchpads_.as<uint8_t>() + thread * scratchpad_bytes_;
    args.emplace(DNNL_ARG_SCRATCHPAD, memory(scratchpad, own));
  }
  dnnl::stream& stream = streams_[thread];
  entry.primitive.execute(stream, args);
  stream.wait();
}

// out = result * scales + bias (+ out if g.accumulate), for a block of outputs of one token.
void StoreResult(const Gemm& g, const float* result, int64_t token, int64_t first_output, int64_t n_outputs) {
  float* to = g.out + token * g.out_stride + first_output;
  const float* bias = g.bias == nullptr ? nullptr : g.bias + first_output;
  if (g.x_type == DType::kI8) {
    const float* scale = g.w_scale + first_output;
    const float x_scale = g.x_scale[token];
    for (int64_t i = 0; i < n_outputs; ++i) {
      to[i] = result[i] * (scale[i] * x_scale) + (bias == nullptr ? 0.0f : bias[i]) + (g.accumulate ? to[i] : 0.0f);
    }
  } else if (bias == nullptr && !g.accumulate) {
    std::memcpy(to, result, n_outputs * sizeof(float));
  } else {
    for (int64_t i = 0; i < n_outputs; ++i) {
      to[i] = result[i] + (bias == nullptr ? 0.0f : bias[i]) + (g.accumulate ? to[i] : 0.0f);
    }
  }
}

void GemmRunner::Impl::RunBlock(const Product& product, int64_t token_block, int64_t output_block, int thread) {
  const LibraryOnOneThread alone;
  const Gemm& g = product.g;
  const int64_t n_tokens = product.tokens_of(token_block), n_outputs = product.outputs_of(output_block);
  const int64_t first_token = token_block * product.block_tokens, first_output = output_block * product.block_outputs;
  const void* w;
  if (product.copy_w) {
    auto* panel = panels_.as<uint8_t>() + thread * panel_bytes_;
    ConvertWeights(g, first_output, n_outputs, panel);
    w = panel;
  } else {
    w = RowPtr(WeightRows(g), first_output);
  }
  auto* result = reinterpret_cast<float*>(results_.as<uint8_t>() + thread * result_bytes_);
  const Entry* entry = Find({n_tokens, n_outputs, g.n_in, g.x_type, g.w_layout});
  DUO_CHECK(entry != nullptr, "Prepare made the primitive of every block");
  Execute(*entry, RowPtr(InputRows(g), first_token), w, result, thread);
  for (int64_t t = 0; t < n_tokens; ++t) {
    StoreResult(g, result + t * n_outputs, first_token + t, first_output, n_outputs);
  }
}

Status GemmRunner::Impl::Multiply(const Gemm& g) {
  const Product product = Cut(g);
  DUO_RETURN_IF_ERROR(Prepare(product));
  const int64_t n_token_blocks = product.n_token_blocks();
  std::mutex mutex;
  std::exception_ptr failure;
  ParallelFor(n_threads_, n_token_blocks * product.n_output_blocks(), [&](int64_t task, int thread) {
    try {
      RunBlock(product, task % n_token_blocks, task / n_token_blocks, thread);
    } catch (...) {  // rethrown on the caller's thread, which makes it a Status
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  return OkStatus();
}

Status GemmRunner::Impl::Run(const Gemm& g) {
  const bool quantized = g.w_type == DType::kI8 || g.w_type == DType::kU8;
  DUO_CHECK(g.x_type == DType::kF32 || g.x_type == DType::kBF16 || (g.x_type == DType::kI8 && g.w_type == DType::kI8),
            "activations are f32, bf16, or int8 with int8 weights");
  DUO_CHECK(!quantized || g.w_layout == WeightLayout::kOutIn, "quantised weights must have layout kOutIn");
  DUO_CHECK(g.n_in > 0 && g.out_stride >= g.n_out, "a product needs inputs, and rows of the output must not overlap");
  if (g.n_tokens <= 0 || g.n_out <= 0) return OkStatus();
  try {
    if (g.x_type != DType::kBF16 || has_bf16_) return Multiply(g);
    // Without bf16 products, widen the activations to floats, one block of tokens at a time.
    const size_t row_bytes = g.n_in * sizeof(float);
    const int64_t block = std::clamp<int64_t>(kTokensBytes / row_bytes, 1, g.n_tokens);
    DUO_RETURN_IF_ERROR(Grow(&tokens_, block * row_bytes));
    for (int64_t begin = 0; begin < g.n_tokens; begin += block) {
      Gemm part = g;
      part.n_tokens = std::min(block, g.n_tokens - begin);
      ParallelFor(n_threads_, part.n_tokens, [&](int64_t t, int) {
        ConvertRow(kernels_, InputRows(g), begin + t, g.n_in, DType::kF32, tokens_.as<float>() + t * g.n_in);
      });
      part.x = tokens_.data();
      part.x_type = DType::kF32;
      part.out = g.out + begin * g.out_stride;
      DUO_RETURN_IF_ERROR(Multiply(part));
    }
    return OkStatus();
  } catch (const dnnl::error& e) {
    return Internal("oneDNN refused a matrix product of {} tokens, [{}, {}]: {}", g.n_tokens, g.n_out, g.n_in,
                    e.what());
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("out of memory for oneDNN's own tables");
  }
}

GemmRunner::GemmRunner(int n_threads, Isa isa) : impl_(std::make_unique<Impl>(n_threads, isa)) {}
GemmRunner::~GemmRunner() = default;

Status GemmRunner::Run(const Gemm& gemm) { return impl_->Run(gemm); }

size_t GemmRunner::MaxScratchBytes(Isa isa, int n_threads, int64_t widest_input, DType x_type, DType w_type,
                                   WeightLayout layout) {
  const DType type = x_type == DType::kBF16 && isa < Isa::kAvx512Bf16 ? DType::kF32 : x_type;
  const size_t widest = PanelOutputs(widest_input, type) * widest_input * DTypeBytes(type);
  const bool copy_w = w_type != type || layout == WeightLayout::kInOut;
  // A product with fewer inputs may fill its panel up to kPanelBytes, so the bound is the larger of the two.
  const size_t panel = copy_w ? std::max(widest, kPanelBytes) + kPageBytes : 0;
  return (x_type != type ? kTokensBytes : 0) + n_threads * (panel + kPanelBytes + kPageBytes + kScratchpadBytes);
}

size_t GemmRunner::scratch_bytes() const { return impl_->scratch_bytes(); }

}  // namespace duo
