// The two streams that DuoAttention's gates are learned from (arXiv:2410.10819 section 2.2, equations 3 to 5), and the
// gradient of their loss with respect to the gates.
//
// The teacher is the model itself with full attention. The student has in every layer and KV head
//   attention = gate * full + (1 - gate) * streaming.
// Here `full` is the teacher's full attention of this layer, which counts as a constant. `streaming` is streaming
// attention with the student's own q, k, v under the exact Lambda mask.
//
// Both streams run the steps of model/transformer.h, the code that serves requests. Weights are frozen, so the backward
// pass computes only gradients of activations, through the streaming attention. It keeps the activations of one layer
// at a time and recomputes the others from the inputs of the layers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/go_on.h"
#include "duo/backend.h"
#include "duo/model.h"
#include "duo/result.h"

namespace duo {

struct TwoStreamOptions {
  int64_t sink = 128;  // tokens, for the student's streaming heads (the paper trains with sink 128 and recent 256)
  int64_t recent = 256;
  int64_t max_tokens = 0;  // longest sequence, 2..2^20
  ComputeType compute = ComputeType::kBF16;
  uint64_t memory_limit = 0;  // bytes in addition to the weights; 0 = what the system has
};

/// The tokens [begin, end) of a sequence, whose hidden states are compared.
struct LabelRange {
  int64_t begin = 0;
  int64_t end = 0;
};

struct TwoStreamLoss {
  double distill = 0;                  // mean over labels and hidden of (teacher - student)^2 after the final norm
  std::vector<double> gate_gradients;  // [n_layers, n_kv_heads] gradient of `distill`
};

/// Owns all memory that a step needs. Not thread safe. The model must outlive it.
class TeacherStudent {
 public:
  /// kUnsupported if the model's backend has no gradients or its weights are quantised. kInvalidArgument.
  /// kResourceExhausted, with the bytes needed and available.
  static Result<TeacherStudent> Create(const Model& model, const TwoStreamOptions& options);
  TeacherStudent(TeacherStudent&&) noexcept;
  TeacherStudent& operator=(TeacherStudent&&) noexcept;
  ~TeacherStudent();

  /// Memory that Create and a step take together, without the weights.
  static uint64_t Bytes(const Model& model, const TwoStreamOptions& options);
  /// Floating-point operations of Loss on n_tokens tokens. A multiplication and an addition count as two.
  static double Flops(const ModelConfig& config, const TwoStreamOptions& options, int64_t n_tokens);

  /// Computes the loss and its gradient. There must be 2..max_tokens ids, all in the vocabulary. The range `labels`
  /// must lie inside them and not be empty. gates: [n_layers, n_kv_heads] in [0, 1]. kInvalidArgument, kCancelled,
  /// kResourceExhausted, kInternal (the loss or a gradient is not finite).
  Result<TwoStreamLoss> Loss(std::span<const int32_t> ids, LabelRange labels, std::span<const double> gates,
                             const GoOn& go_on = {});

 private:
  class Impl;
  explicit TeacherStudent(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace duo
