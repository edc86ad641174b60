// The state of TeacherStudent, which its forward pass (teacher_student.cc) and its backward pass
// (teacher_student_backward.cc) share.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "attention/duo_attention.h"
#include "backend/identify_ops.h"
#include "identify/teacher_student.h"
#include "kv/split_kv_cache.h"
#include "model/activations.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace duo {

inline float* At(const DeviceMemoryPtr& memory) { return reinterpret_cast<float*>(memory->data()); }

/// Attention of one stream: a cache, and the scratch for it.
struct Stream {
  static Result<Stream> Create(Backend* backend, const KvLayout& layout) {
    DUO_ASSIGN_OR_RETURN(SplitKvCache cache, SplitKvCache::Create(backend, layout));
    DUO_ASSIGN_OR_RETURN(DuoAttention attention, DuoAttention::Create(backend, layout, layout.capacity));
    return Stream{std::move(cache), std::move(attention)};
  }
  /// Attends to the tokens of the call only: the cache's length stays 0.
  Status Attend(const AttentionInput& input) { return attention.Run(input, 0, &cache); }

  SplitKvCache cache;  // of one layer
  DuoAttention attention;
};

// A step runs as follows. Forward runs both streams layer by layer. It keeps the student's x before each layer
// (`inputs`) and the teacher's attention in each layer (`full_outputs`). Distill computes the loss and its gradient
// with respect to the student's last x, in dx. BackwardLayer then goes from the last layer to the first. Before it, dx
// is the gradient of the layer's output. It recomputes the layer's activations, adds the gradients of the layer's gates
// and turns dx into the gradient of the layer's input. The first layer needs only the gradients of its gates.
class TeacherStudent::Impl {
 public:
  Impl(const Model& model, const TwoStreamOptions& two_stream, Stream full, Stream streaming, Activations activations)
      : c(model.config()),
        w(model.weights()),
        backend(model.backend()),
        ops(model.backend()->identify_ops()),
        options(two_stream),
        teacher(std::move(full)),
        student(std::move(streaming)),
        act(std::move(activations)),
        transformer(w, options.compute) {}

  struct Allocation {
    DeviceMemoryPtr Impl::*memory;
    int64_t floats;
  };
  /// The memory of a step of n tokens, in addition to the activations of one layer.
  static std::vector<Allocation> Allocations(const ModelConfig& c, int64_t n);
  Status Allocate();

  Status CheckArguments(std::span<const int32_t> ids, LabelRange labels, std::span<const double> gates) const;
  Status Forward(std::span<const int32_t> ids, std::span<const double> gates, const GoOn& go_on);
  Status TeacherLayer(int layer);
  Status StudentLayer(int layer, std::span<const double> gates);
  Result<double> Distill(LabelRange labels);
  Status BackwardLayer(int layer, std::span<const double> gates, std::span<double> gradients);
  Status Recompute(int layer, std::span<const double> gates);
  /// Copies q and k to raw_q and raw_k.
  void KeepRawHeads();
  Status MlpBackward(int layer);
  Status AttentionBackward(int layer, std::span<const double> gates, std::span<double> gradients);

  /// Copies the residual stream of this step's tokens, [n, hidden].
  void CopyX(const float* from, float* to) { CopyFloats(from, to, n * c.hidden_size); }
  void CopyFloats(const float* from, float* to, int64_t count) {
    const CopyTask task{reinterpret_cast<const uint8_t*>(from), reinterpret_cast<uint8_t*>(to), count * sizeof(float)};
    backend->Copy({&task, 1});
  }
  float* input(int layer) const { return At(inputs) + layer * n * c.hidden_size; }
  float* full(int layer) const { return At(full_outputs) + layer * n * c.q_width(); }
  HeadMix MixOf(int layer, std::span<const double> gates, const float* streaming) const {
    return {.n_tokens = n,
            .n_kv_heads = c.n_kv_heads,
            .width = int64_t{c.group()} * c.head_dim,
            .host_gates = gates.subspan(layer * c.n_kv_heads, c.n_kv_heads),
            .full = full(layer),
            .streaming = streaming};
  }

  const ModelConfig& c;
  const Model::Weights& w;
  Backend* backend;
  IdentifyOps* ops;
  TwoStreamOptions options;
  Stream teacher, student;
  Activations act;  // of the current layer and stream, except act.x, which is the teacher's x in every layer
  Transformer transformer;
  int64_t n = 0;                 // tokens of this step
  std::vector<float> minus_sin;  // [n, head_dim / 2]

  DeviceMemoryPtr inputs;        // [n_layers + 1, n, hidden]: the student's x before each layer and after the last
  DeviceMemoryPtr full_outputs;  // [n_layers, n, q width]: the teacher's attention
  DeviceMemoryPtr dx;            // [n, hidden]
  DeviceMemoryPtr x_mid;         // [n, hidden]: the student's x between attention and MLP
  DeviceMemoryPtr mixed;         // [n, q width]: mixed attention, then its gradient
  DeviceMemoryPtr dh;            // [n, intermediate]
  DeviceMemoryPtr dk, dv;        // [n, kv width]
  DeviceMemoryPtr raw_q, raw_k;  // q and k before their norms; empty if the model has none
};

}  // namespace duo
