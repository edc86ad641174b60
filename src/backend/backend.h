// The dozen operations a transformer needs, and memory. The model is written once, against this interface.
//
// Pointers: every pointer is to this backend's memory unless the parameter's name begins with host.
// Types: activations are float. Linear rounds matrix inputs to bf16 when the compute type asks for it.
// Threads: one thread at a time. Only Allocate, Reserve, ToHost, FromHost and MaxScratchBytes may run at the same time
// as any other call.
// Errors: a backend may queue work. The error of an operation that returns void is returned by the next call that
// returns a Status.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/matrix_view.h"
#include "duo/backend.h"
#include "duo/result.h"
#include "kernels/attention_work.h"
#include "kernels/kv_work.h"

namespace duo {

/// Owns a block of backend memory.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual uint8_t* data() const = 0;
  virtual size_t bytes() const = 0;
  /// Backs [offset, offset + n) with memory. Call it only for blocks from Reserve(). kResourceExhausted.
  virtual Status Commit(size_t offset, size_t n) = 0;
};
using DeviceMemoryPtr = std::unique_ptr<DeviceMemory>;

/// One product of a group that shares its input: out = x w^T (+ bias) (+ out).
struct LinearTask {
  MatrixView weight;
  const float* bias = nullptr;  // [n_out] or null
  float* out = nullptr;         // [n_tokens, n_out]
  bool accumulate = false;      // adds to out: the residual connection
};

/// The input of a product: x [n_tokens, n_in], or RMSNorm(x), or silu(x) * up. The last two are computed first.
struct ProductInput {
  const float* x = nullptr;
  int64_t n_tokens = 1;
  int64_t n_in = 0;
  const float* norm = nullptr;  // [n_in] weights of an RMSNorm, or null
  float eps = 0;                // epsilon of the RMSNorm
  const float* up = nullptr;    // [n_tokens, n_in], or null; at most one of norm and up is set
  float* prepared = nullptr;    // [n_tokens, n_in] memory for the computed input; with `up` it may be x
  bool keep_prepared = false;   // true: `prepared` holds the computed input afterwards; false: it is undefined

  /// Whether the input is computed from x.
  bool IsPrepared() const { return norm != nullptr || up != nullptr; }
};

/// A plain copy inside backend memory.
struct CopyTask {
  const uint8_t* src = nullptr;
  uint8_t* dst = nullptr;
  size_t bytes = 0;
};

/// Upper bounds of the calls a session will make.
struct CallBounds {
  int64_t n_tokens = 1;
  int n_layers = 0;            // layers between BeginLayer and EndLayer
  int n_sequences = 1;         // sequences in one DecodeAttention
  int64_t widest_input = 0;    // elements of a Linear's input per token
  int64_t max_outputs = 0;     // elements of a Linear's output, all tokens together
  int64_t largest_matrix = 0;  // number of weights
  int n_kv_heads = 1;
  int group = 1;
  int head_dim = 0;
  ComputeType compute = ComputeType::kBF16;
  DType weights = DType::kBF16;  // type of the matrices
};

class IdentifyOps;  // backend/identify_ops.h
class Meter;        // backend/meter.h

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string Describe() const = 0;
  virtual int n_threads() const = 0;

  // ---- memory
  /// Returns uninitialised memory. kResourceExhausted.
  virtual Result<DeviceMemoryPtr> Allocate(size_t bytes) = 0;
  /// Returns address space that Commit() backs when it is needed. kResourceExhausted.
  virtual Result<DeviceMemoryPtr> Reserve(size_t bytes) = 0;
  /// Commit() takes memory in multiples of this. 1 if the first touch of a page takes the memory.
  virtual size_t CommitBytes() const = 0;
  /// Bytes that can still be allocated from the memory this backend works in.
  virtual uint64_t AvailableBytes() const = 0;
  /// Copies host bytes (weights) to this backend's memory. Null if operations can read the host bytes in place.
  /// kResourceExhausted.
  virtual Result<DeviceMemoryPtr> Upload(const void* host, size_t bytes) = 0;
  virtual void Copy(std::span<const CopyTask> tasks) = 0;
  /// Waits for all earlier work. kInternal if that work failed.
  virtual Status ToHost(const void* src, void* host_dst, size_t bytes) = 0;
  virtual void FromHost(const void* host_src, void* dst, size_t bytes) = 0;
  /// Upper bound of the scratch that the backend holds for calls within these bounds. The memory plan needs it.
  virtual uint64_t MaxScratchBytes(const CallBounds& bounds) const = 0;

  // ---- operations
  /// out[t] = table[ids[t]]. host_ids must be rows of the table. The table must not be int4.
  virtual void Embed(const MatrixView& table, std::span<const int32_t> host_ids, float* out) = 0;
  /// x, out: contiguous rows of `dim` floats. They may be the same memory.
  virtual void RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* out) = 0;
  /// All tasks share the input. With kInt8 all their weights must be int8. kResourceExhausted, kInternal.
  virtual Status Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks) = 0;
  /// Sets the tables that Rope() uses: host_cos, host_sin [n_tokens, half_dim]. They must outlive every Rope() call
  /// that uses them.
  virtual void SetRotations(const float* host_cos, const float* host_sin, int64_t n_tokens, int half_dim) = 0;
  /// Rotates q [n_tokens, n_heads, head_dim] and k [n_tokens, n_kv_heads, head_dim] in place.
  virtual void Rope(float* q, int n_heads, float* k, int n_kv_heads, int64_t n_tokens, int head_dim) = 0;
  /// Two tasks of one call must not write the same row. They may write rows of one block of codes. The same holds for
  /// CopyRows.
  virtual void StoreRows(std::span<const StoreTask> tasks, int head_dim, KvType type) = 0;
  virtual void CopyRows(std::span<const CopyRowsTask> tasks, int head_dim, KvType type) = 0;
  virtual Status DecodeAttention(const AttentionShape& shape, std::span<const DecodeHead> heads) = 0;
  virtual Status PrefillAttention(const AttentionShape& shape, std::span<const PrefillHead> heads) = 0;

  // ---- layers
  /// A backend may hold back the work between BeginLayer and EndLayer and submit it as a whole. EndLayer returns the
  /// first error of work that was held back. Any operation may be called between them.
  virtual void BeginLayer(int layer) = 0;
  virtual Status EndLayer() = 0;

  // ---- other interfaces, which live as long as the backend
  /// The operations for finding heads, or null if this backend has none.
  virtual IdentifyOps* identify_ops() = 0;
  /// Measures times and speeds.
  virtual Meter* meter() = 0;
};

}  // namespace duo
