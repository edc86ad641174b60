// The dozen operations a transformer needs, and memory. The model is written once over this interface.
//
// Every pointer is to this backend's memory unless the parameter says host. Activations are float; matrix inputs are
// rounded to bf16 inside Linear when the compute type asks for it. One thread at a time, except for memory: Allocate,
// Reserve, ToHost, FromHost and MaxScratchBytes may be called beside anything else. Work may be queued: an operation
// that returns nothing leaves its error to the next call that returns a Status.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/matrix_view.h"
#include "duo/backend.h"
#include "duo/result.h"
#include "kernels/kv_codes.h"
#include "kernels/mask.h"

namespace duo {

/// Owner of a block of backend memory.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  virtual uint8_t* data() const = 0;
  virtual size_t bytes() const = 0;
  /// Backs [offset, offset + n) with memory; only for what Reserve() returned. kResourceExhausted.
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

/// The input of a product, x [n_tokens, n_in], and what is made of it first: either of RMSNorm(x) and silu(x) * up.
struct ProductInput {
  const float* x = nullptr;
  int64_t n_tokens = 1;
  int64_t n_in = 0;
  const float* norm = nullptr;  // [n_in] weights of an RMSNorm, or null
  float eps = 0;                // of the norm
  const float* up = nullptr;    // [n_tokens, n_in], or null
  float* made = nullptr;        // [n_tokens, n_in] memory for what is made of x; for up it may be x
  bool made_is_kept = false;    // what is made stands there afterwards; otherwise it is undefined

  bool IsMade() const { return norm != nullptr || up != nullptr; }
};

/// Rows [begin, end) of a cache.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
};

/// One KV head of a decode step: the rows its queries attend to are one or two ranges (a ring wraps around).
struct DecodeHead {
  const float* q = nullptr;    // [group, head_dim]
  const uint8_t* k = nullptr;  // row 0 of the head: [row, head_dim], or blocks of codes (kernels/kv_codes.h)
  const uint8_t* v = nullptr;
  RowRange ranges[2];
  int n_ranges = 0;
  float* out = nullptr;  // [group, head_dim]
  float* lse = nullptr;  // [group] log of the sum of exp(score), or null
};

struct PrefillHead {
  const float* q = nullptr;    // token t: q + t * q_stride, [group, head_dim] there
  const uint8_t* k = nullptr;  // [n_rows] rows of the cache, in order of position
  const uint8_t* v = nullptr;
  int64_t n_rows = 0;
  int64_t n_sink_rows = 0;  // row r < n_sink_rows has position r,
  int64_t body_pos = 0;     // any other body_pos + (r - n_sink_rows)
  LambdaMask mask;
  float* out = nullptr;  // token t: out + t * q_stride
  float* lse = nullptr;  // token t: lse + t * lse_stride, [group] there, or null
};

/// What all heads of one attention call share.
struct AttentionShape {
  int group = 1;
  int head_dim = 0;
  int64_t q_stride = 0;    // floats between tokens of q and of out
  int64_t lse_stride = 0;  // floats between tokens of lse
  int64_t q_pos = 0;       // absolute position of the first token
  int64_t n_tokens = 1;
  KvType kv_type = KvType::kBF16;
  ComputeType compute = ComputeType::kBF16;
  float scale = 1.0f;
};

/// Copies rows of K or V of one head from activations into a cache, converting to its type.
struct StoreTask {
  KvPart part = KvPart::kKeys;
  const float* src = nullptr;  // row r: src + r * src_stride, head_dim floats
  int64_t src_stride = 0;
  uint8_t* dst = nullptr;  // the head's row 0
  int64_t row = 0;         // rows [row, row + n_rows) are written
  int64_t n_rows = 0;
};

/// Copies rows of one head's K or V between caches of the same type.
struct CopyRowsTask {
  KvPart part = KvPart::kKeys;
  const uint8_t* src = nullptr;  // row 0; likewise dst
  int64_t src_row = 0;
  uint8_t* dst = nullptr;
  int64_t dst_row = 0;
  int64_t n_rows = 0;
};

/// A plain copy inside backend memory.
struct CopyTask {
  const uint8_t* src = nullptr;
  uint8_t* dst = nullptr;
  size_t bytes = 0;
};

/// The largest calls a session will make.
struct CallBounds {
  int64_t n_tokens = 1;
  int n_parts = 0;             // of a step (BeginPart)
  int n_sequences = 1;         // in one DecodeAttention
  int64_t widest_input = 0;    // elements of a Linear's input per token
  int64_t max_outputs = 0;     // elements of a Linear's output, of all its tokens
  int64_t largest_matrix = 0;  // weights
  int n_kv_heads = 1;
  int group = 1;
  int head_dim = 0;
  ComputeType compute = ComputeType::kBF16;
  DType weights = DType::kBF16;  // of the matrices
};

/// Seconds spent per kind of work since the last reset; for `duo bench`.
struct BackendTimes {
  double attention_s = 0;
  double linear_s = 0;
};

class IdentifyOps;  // backend/identify_ops.h

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string Describe() const = 0;
  virtual int n_threads() const = 0;

  // ---- memory
  /// Uninitialised memory. kResourceExhausted.
  virtual Result<DeviceMemoryPtr> Allocate(size_t bytes) = 0;
  /// Address space that Commit() backs as it is needed. kResourceExhausted.
  virtual Result<DeviceMemoryPtr> Reserve(size_t bytes) = 0;
  /// What Commit() takes comes in multiples of this; 1 where memory is taken as it is touched.
  virtual size_t CommitBytes() const = 0;
  /// Bytes that could still be taken of the memory this backend works in.
  virtual uint64_t AvailableBytes() const = 0;
  /// A copy of host bytes in this backend's memory, for weights; null where operations read them in place.
  /// kResourceExhausted.
  virtual Result<DeviceMemoryPtr> Upload(const void* host, size_t bytes) = 0;
  virtual void Copy(std::span<const CopyTask> tasks) = 0;
  /// Waits for all work before it. kInternal for what went wrong in that work.
  virtual Status ToHost(const void* src, void* host_dst, size_t bytes) = 0;
  virtual void FromHost(const void* host_src, void* dst, size_t bytes) = 0;
  /// Scratch the backend itself may hold at most for calls within these bounds, for the memory plan.
  virtual uint64_t MaxScratchBytes(const CallBounds& bounds) const = 0;

  // ---- operations
  /// out[t] = table[ids[t]]; host_ids are valid rows. The table is not int4.
  virtual void Embed(const MatrixView& table, std::span<const int32_t> host_ids, float* out) = 0;
  /// Rows of `dim` floats, contiguous; in place allowed.
  virtual void RmsNorm(const float* x, const float* weight, float eps, int64_t n_rows, int64_t dim, float* out) = 0;
  /// All tasks share the input; with kInt8 all their weights are int8. kResourceExhausted, kInternal.
  virtual Status Linear(ComputeType compute, const ProductInput& input, std::span<const LinearTask> tasks) = 0;
  /// By what Rope rotates from now on: host_cos, host_sin [n_tokens, half_dim], which must live as long.
  virtual void SetRotations(const float* host_cos, const float* host_sin, int64_t n_tokens, int half_dim) = 0;
  /// Rotates q [n_tokens, n_heads, head_dim] and k [n_tokens, n_kv_heads, head_dim] in place.
  virtual void Rope(float* q, int n_heads, float* k, int n_kv_heads, int64_t n_tokens, int head_dim) = 0;
  /// No two tasks of a call write the same rows, but they may write rows of one block of codes; likewise CopyRows.
  virtual void StoreRows(std::span<const StoreTask> tasks, int head_dim, KvType type) = 0;
  virtual void CopyRows(std::span<const CopyRowsTask> tasks, int head_dim, KvType type) = 0;
  virtual Status DecodeAttention(const AttentionShape& shape, std::span<const DecodeHead> heads) = 0;
  virtual Status PrefillAttention(const AttentionShape& shape, std::span<const PrefillHead> heads) = 0;

  // ---- steps
  /// What is queued until EndPart is part 0, 1, ... of a step that comes again and again with other arguments, a layer
  /// of a forward pass for one: a backend may hold it back and send it off as a whole. Anything may be called between.
  /// Errors of launches inside a part, whatever the operations returned, are EndPart's at the latest.
  virtual void BeginPart(int part) = 0;
  virtual Status EndPart() = 0;

  /// For finding heads; null where this backend has none. Lives as long as the backend.
  virtual IdentifyOps* identify_ops() = 0;

  // ---- measurement
  /// Of the work between ResetTimes and the first times() behind it.
  virtual BackendTimes times() const = 0;
  virtual void ResetTimes() = 0;
  /// Whether times are taken without slowing the work down.
  virtual bool TimesAreFree() const = 0;
  /// Read bandwidth of the memory weights and caches live in, GB/s, as it is now: one pass of some milliseconds over a
  /// block of hundreds of MiB, which the first call allocates and the backend keeps. kResourceExhausted.
  virtual Result<double> MeasureReadBandwidth() = 0;
  /// GFLOP/s of a large matrix product alone.
  virtual Result<double> MeasureGemm(ComputeType compute) = 0;
};

}  // namespace duo
