// The two streams that DuoAttention's gates are learned from (arXiv:2410.10819 section 2.2, equations 3 to 5), and the
// gradient of their loss with respect to the gates.
//
// Teacher: the model itself, full attention. Student: in every layer and KV head
//   attention = gate * (the teacher's full attention of this layer, a constant) + (1 - gate) * streaming attention
// of the student's own q, k, v under the exact Lambda mask. Both run the steps of model/transformer.h, the code that
// serves requests. Weights are frozen, so the backward pass carries gradients of activations alone, through the
// streaming attention. Activations of one layer are kept, the others are made again from the layers' inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "duo/backend.h"
#include "duo/model.h"
#include "duo/result.h"

namespace duo {

struct TwoStreamOptions {
  int64_t sink = 128;  // of the student's streaming heads (the paper trains with 128 and 256)
  int64_t recent = 256;
  int64_t max_tokens = 0;  // longest sequence, 2..2^20
  ComputeType compute = ComputeType::kBF16;
  uint64_t memory_limit = 0;  // bytes beside the weights; 0 = what the system has
};

/// Tokens of a sequence whose hidden states are compared: [begin, end).
struct LabelRange {
  int64_t begin = 0;
  int64_t end = 0;
};

struct TwoStreamLoss {
  double distill = 0;                  // mean over labels and hidden of (teacher - student)^2 after the final norm
  std::vector<double> gate_gradients;  // [n_layers, n_kv_heads] of `distill`
};

/// Asked between layers; false stops.
using GoOn = std::function<bool()>;

/// Owner of all memory a step needs. Not thread safe; the model must outlive it.
class TeacherStudent {
 public:
  /// kUnsupported when the model's backend has no gradients or its weights are quantised; kInvalidArgument;
  /// kResourceExhausted with the bytes needed and available.
  static Result<TeacherStudent> Create(const Model& model, const TwoStreamOptions& options);
  TeacherStudent(TeacherStudent&&) noexcept;
  TeacherStudent& operator=(TeacherStudent&&) noexcept;
  ~TeacherStudent();

  /// Memory that Create takes and a step adds, weights not counted.
  static uint64_t Bytes(const Model& model, const TwoStreamOptions& options);
  /// Floating-point operations of Loss on n_tokens tokens: a multiply and an add are two.
  static double Flops(const ModelConfig& config, const TwoStreamOptions& options, int64_t n_tokens);

  /// ids: in the vocabulary, 2..max_tokens of them; labels inside them and not empty; gates [n_layers, n_kv_heads] in
  /// [0, 1]. kInvalidArgument, kCancelled, kResourceExhausted, kInternal (the loss is not finite).
  Result<TwoStreamLoss> Loss(std::span<const int32_t> ids, LabelRange labels, std::span<const double> gates,
                             const GoOn& go_on = {});

 private:
  class Impl;
  explicit TeacherStudent(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace duo
