#include "identify/teacher_student.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "attention/duo_attention.h"
#include "backend/identify_ops.h"
#include "base/error.h"
#include "identify/memory_check.h"
#include "kernels/attention_backward.h"
#include "kv/split_kv_cache.h"
#include "model/activations.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace duo {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 20;
constexpr int64_t kDistillRows = 256;  // rows compared on the host at a time

/// Allocates n floats of backend memory.
Result<DeviceMemoryPtr> Floats(Backend* backend, int64_t n) {
  return backend->Allocate(static_cast<size_t>(n) * sizeof(float));
}
float* At(const DeviceMemoryPtr& memory) { return reinterpret_cast<float*>(memory->data()); }

// All layers take turns with a cache of one layer. Its length stays 0, so every layer overwrites the same rows.
KvLayout OneLayer(const ModelConfig& c, const TwoStreamOptions& o, uint8_t retrieval) {
  KvLayout layout;
  layout.heads = {1, c.n_kv_heads, std::vector<uint8_t>(c.n_kv_heads, retrieval)};
  layout.head_dim = c.head_dim;
  layout.type = o.compute == ComputeType::kF32 ? KvType::kF32 : KvType::kBF16;
  layout.sink = std::min(o.sink, o.max_tokens);
  layout.recent = std::min(o.recent, o.max_tokens);
  layout.prefill_recent = layout.recent;
  layout.capacity = o.max_tokens;
  return layout;
}

int64_t Hidden(const ModelConfig& c) { return c.hidden_size; }
int64_t QWidth(const ModelConfig& c) { return static_cast<int64_t>(c.n_heads) * c.head_dim; }
int64_t KvWidth(const ModelConfig& c) { return static_cast<int64_t>(c.n_kv_heads) * c.head_dim; }

}  // namespace

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

  struct Part {
    DeviceMemoryPtr Impl::*memory;
    int64_t floats;
  };
  /// The memory of a step of n tokens, in addition to the activations of one layer.
  static std::vector<Part> Parts(const ModelConfig& c, int64_t n);
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
  void CopyX(const float* from, float* to) { CopyFloats(from, to, n * Hidden(c)); }
  void CopyFloats(const float* from, float* to, int64_t count) {
    const CopyTask task{reinterpret_cast<const uint8_t*>(from), reinterpret_cast<uint8_t*>(to), count * sizeof(float)};
    backend->Copy({&task, 1});
  }
  float* input(int layer) const { return At(inputs) + layer * n * Hidden(c); }
  float* full(int layer) const { return At(full_outputs) + layer * n * QWidth(c); }
  HeadMix MixOf(int layer, std::span<const double> gates, const float* streaming) const {
    return {.n_tokens = n,
            .n_kv_heads = c.n_kv_heads,
            .width = static_cast<int64_t>(c.group()) * c.head_dim,
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

std::vector<TeacherStudent::Impl::Part> TeacherStudent::Impl::Parts(const ModelConfig& c, int64_t n) {
  const int64_t layers = c.n_layers, norms = c.qk_norm ? 1 : 0;
  return {{&Impl::inputs, (layers + 1) * n * Hidden(c)},
          {&Impl::full_outputs, layers * n * QWidth(c)},
          {&Impl::dx, n * Hidden(c)},
          {&Impl::x_mid, n * Hidden(c)},
          {&Impl::mixed, n * QWidth(c)},
          {&Impl::dh, n * c.intermediate_size},
          {&Impl::dk, n * KvWidth(c)},
          {&Impl::dv, n * KvWidth(c)},
          {&Impl::raw_q, norms * n * QWidth(c)},
          {&Impl::raw_k, norms * n * KvWidth(c)}};
}

Status TeacherStudent::Impl::Allocate() {
  for (const Part& part : Parts(c, options.max_tokens)) {
    DUO_ASSIGN_OR_RETURN(this->*part.memory, Floats(backend, part.floats));
  }
  return OkStatus();
}

TeacherStudent::TeacherStudent(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TeacherStudent::TeacherStudent(TeacherStudent&&) noexcept = default;
TeacherStudent& TeacherStudent::operator=(TeacherStudent&&) noexcept = default;
TeacherStudent::~TeacherStudent() = default;

uint64_t TeacherStudent::Bytes(const Model& model, const TwoStreamOptions& options) {
  const ModelConfig& c = model.config();
  const int64_t n = options.max_tokens, widest = std::max({Hidden(c), QWidth(c), c.intermediate_size});
  uint64_t floats = 0;
  for (const Impl::Part& part : Impl::Parts(c, n)) floats += static_cast<uint64_t>(part.floats);
  const KvLayout full = OneLayer(c, options, 1), streaming = OneLayer(c, options, 0);
  const uint64_t caches = full.TotalBytes(n) + streaming.TotalBytes(n) + DuoAttention::ScratchBytes(full, n) +
                          DuoAttention::ScratchBytes(streaming, n);
  const uint64_t forward = model.backend()->MaxScratchBytes(CallBoundsOf(c, n, options.compute));
  const IdentifyOps* ops = model.backend()->identify_ops();
  const uint64_t backward = ops == nullptr ? 0
                                           : ops->MaxScratchBytes({.n_tokens = n,
                                                                   .widest_output = widest,
                                                                   .group = c.group(),
                                                                   .head_dim = c.head_dim,
                                                                   .mask = {streaming.sink, streaming.recent},
                                                                   .compute = options.compute,
                                                                   .weights = MatrixType(c)});
  return Activations::Bytes(c, n) + floats * sizeof(float) + caches + forward + backward;
}

// Each matrix is used four times: by the teacher, by the student, in the recomputation, and for the gradient of its
// input. The recomputation leaves out down, and the gradient of layer 0 leaves out q, k and v. Attention makes two
// products forward for each pair of query and key, and five backward (none in layer 0).
double TeacherStudent::Flops(const ModelConfig& c, const TwoStreamOptions& o, int64_t n_tokens) {
  const auto n = static_cast<double>(n_tokens), layers = static_cast<double>(c.n_layers);
  const auto hidden = static_cast<double>(Hidden(c)), q = static_cast<double>(QWidth(c));
  const auto qkv = hidden * (q + 2 * static_cast<double>(KvWidth(c))), out = q * hidden;
  const auto mlp = hidden * static_cast<double>(c.intermediate_size);
  const double linear = 2 * n * (layers * (4 * (qkv + out) + 11 * mlp) - qkv);
  const double window = std::min(n, static_cast<double>(o.sink + o.recent));
  const double full_pairs = n * (n + 1) / 2, streaming_pairs = n * window - window * (window - 1) / 2;
  return linear + 2 * q * (layers * 2 * full_pairs + (layers * (2 + 2) + (layers - 1) * 5) * streaming_pairs);
}

Result<TeacherStudent> TeacherStudent::Create(const Model& model, const TwoStreamOptions& options) {
  if (model.backend()->identify_ops() == nullptr) {
    return Status(StatusCode::kUnsupported, "this backend has no gradients; the CPU backend has them").About("device");
  }
  if (model.config().weights != WeightType::kNative) {
    return Status(StatusCode::kUnsupported,
                  std::string("finding heads by optimisation needs plain weights, but these are ") +
                      WeightTypeName(model.config().weights) +
                      "; use the checkpoint they were made from, or a method without training");
  }
  if (options.max_tokens < 2 || options.max_tokens > kMaxTokens) {
    return Status(StatusCode::kInvalidArgument, "a training text of " + std::to_string(options.max_tokens) +
                                                    " tokens, expected 2.." + std::to_string(kMaxTokens));
  }
  const KvLayout full_layout = OneLayer(model.config(), options, 1);
  const KvLayout streaming_layout = OneLayer(model.config(), options, 0);
  DUO_RETURN_IF_ERROR(CheckKvLayout(full_layout));
  DUO_RETURN_IF_ERROR(CheckKvLayout(streaming_layout));
  DUO_RETURN_IF_ERROR(CheckFits(model, options.max_tokens, Bytes(model, options), options.memory_limit));
  Backend* backend = model.backend();
  DUO_ASSIGN_OR_RETURN(Stream full, Stream::Create(backend, full_layout));
  DUO_ASSIGN_OR_RETURN(Stream streaming, Stream::Create(backend, streaming_layout));
  DUO_ASSIGN_OR_RETURN(Activations act, Activations::Create(backend, model.config(), options.max_tokens));
  auto impl = std::make_unique<Impl>(model, options, std::move(full), std::move(streaming), std::move(act));
  DUO_RETURN_IF_ERROR(impl->Allocate());
  return TeacherStudent(std::move(impl));
}

Status TeacherStudent::Impl::CheckArguments(std::span<const int32_t> ids, LabelRange labels,
                                            std::span<const double> gates) const {
  const auto n_ids = std::ssize(ids);
  if (n_ids < 2 || n_ids > options.max_tokens) {
    return Status(StatusCode::kInvalidArgument,
                  std::to_string(n_ids) + " tokens, expected 2.." + std::to_string(options.max_tokens));
  }
  DUO_RETURN_IF_ERROR(CheckTokenIds(ids, c.vocab_size));
  if (labels.begin < 0 || labels.end > n_ids || labels.begin >= labels.end) {
    return Status(StatusCode::kInvalidArgument, "labels " + std::to_string(labels.begin) + ".." +
                                                    std::to_string(labels.end - 1) + " are not within the tokens 0.." +
                                                    std::to_string(n_ids - 1));
  }
  if (gates.size() != static_cast<size_t>(c.n_layers) * static_cast<size_t>(c.n_kv_heads)) {
    return Status(StatusCode::kInvalidArgument, std::to_string(gates.size()) + " gates, expected " +
                                                    std::to_string(c.n_layers) + " x " + std::to_string(c.n_kv_heads));
  }
  for (const double gate : gates) {
    if (!(gate >= 0 && gate <= 1)) {
      return Status(StatusCode::kInvalidArgument, "a gate of " + std::to_string(gate) + ", expected 0..1");
    }
  }
  return OkStatus();
}

Result<TwoStreamLoss> TeacherStudent::Loss(std::span<const int32_t> ids, LabelRange labels,
                                           std::span<const double> gates, const GoOn& go_on) {
  DUO_RETURN_IF_ERROR(impl_->CheckArguments(ids, labels, gates));
  DUO_RETURN_IF_ERROR(impl_->Forward(ids, gates, go_on));
  TwoStreamLoss loss;
  DUO_ASSIGN_OR_RETURN(loss.distill, impl_->Distill(labels));
  if (!std::isfinite(loss.distill)) {
    return Status(StatusCode::kInternal, "model " + impl_->c.name +
                                             ": its hidden states are NaN or infinite, and so is the loss; its weights "
                                             "are damaged, or their products overflow");
  }
  loss.gate_gradients.assign(gates.size(), 0.0);
  for (int layer = impl_->c.n_layers - 1; layer >= 0; --layer) {
    if (go_on && !go_on()) return Cancelled();
    DUO_RETURN_IF_ERROR(impl_->BackwardLayer(layer, gates, loss.gate_gradients));
  }
  for (const double gradient : loss.gate_gradients) {
    if (!std::isfinite(gradient)) return Status(StatusCode::kInternal, "a gate's gradient is not finite");
  }
  return loss;
}

Status TeacherStudent::Impl::Forward(std::span<const int32_t> ids, std::span<const double> gates, const GoOn& go_on) {
  n = std::ssize(ids);
  DUO_RETURN_IF_ERROR(w.CheckFilesNowAndThen());
  DUO_RETURN_IF_ERROR(teacher.cache.Begin(n));
  DUO_RETURN_IF_ERROR(student.cache.Begin(n));
  transformer.Embed(ids, 0, &act);
  minus_sin = transformer.rope_sin();
  for (float& s : minus_sin) s = -s;
  CopyX(act.x, input(0));
  for (int layer = 0; layer < c.n_layers; ++layer) {
    if (go_on && !go_on()) return Cancelled();
    DUO_RETURN_IF_ERROR(TeacherLayer(layer));
    DUO_RETURN_IF_ERROR(StudentLayer(layer, gates));
  }
  return OkStatus();
}

Status TeacherStudent::Impl::TeacherLayer(int layer) {
  LayerHooks hooks;
  hooks.attend = [&](int, AttentionInput* attention) {
    attention->out = full(layer);
    return teacher.Attend(*attention);
  };
  return transformer.RunLayer(layer, TokenKind::kPrompt, act.x, {.activations = &act}, hooks);
}

Status TeacherStudent::Impl::StudentLayer(int layer, std::span<const double> gates) {
  float* const x = input(layer + 1);
  CopyX(input(layer), x);
  LayerHooks hooks;
  hooks.attend = [&](int, AttentionInput* attention) {
    DUO_RETURN_IF_ERROR(student.Attend(*attention));
    ops->Mix(MixOf(layer, gates, attention->out), attention->out);
    return OkStatus();
  };
  return transformer.RunLayer(layer, TokenKind::kPrompt, x, {.activations = &act}, hooks);
}

// distill = 1 / (labels * hidden) sum (t - s)^2, where t and s are the hidden states after the final norm. dx = its
// gradient with respect to the student's x.
Result<double> TeacherStudent::Impl::Distill(LabelRange labels) {
  const int64_t hidden = Hidden(c);
  const double scale = 1.0 / (static_cast<double>(labels.end - labels.begin) * static_cast<double>(hidden));
  std::vector<float> t(kDistillRows * hidden), s(t.size());
  double sum = 0;
  for (int64_t row = 0; row < n;) {
    // Rows without a label have no gradient.
    const bool is_label = row >= labels.begin && row < labels.end;
    const int64_t until = is_label ? labels.end : row < labels.begin ? labels.begin : n;
    const int64_t rows = std::min(kDistillRows, until - row);
    const auto count = static_cast<size_t>(rows * hidden);
    std::fill_n(s.begin(), count, 0.0f);
    if (is_label) {
      DUO_RETURN_IF_ERROR(transformer.Hidden(act.x, row, rows, act, t.data()));
      DUO_RETURN_IF_ERROR(transformer.Hidden(input(c.n_layers), row, rows, act, s.data()));
      for (size_t i = 0; i < count; ++i) {
        const double difference = double{s[i]} - double{t[i]};
        sum += difference * difference;
        s[i] = static_cast<float>(2 * scale * difference);
      }
    }
    backend->FromHost(s.data(), At(dx) + row * hidden, count * sizeof(float));
    row += rows;
  }
  const int64_t first = labels.begin * hidden;
  ops->RmsNorm(input(c.n_layers) + first, w.final_norm, c.rms_norm_eps, labels.end - labels.begin, hidden,
               At(dx) + first);
  return sum * scale;
}

Status TeacherStudent::Impl::BackwardLayer(int layer, std::span<const double> gates, std::span<double> gradients) {
  DUO_RETURN_IF_ERROR(Recompute(layer, gates));
  DUO_RETURN_IF_ERROR(MlpBackward(layer));
  return AttentionBackward(layer, gates, gradients);
}

// Repeats StudentLayer up to gate and up. act.attended keeps streaming attention alone.
Status TeacherStudent::Impl::Recompute(int layer, std::span<const double> gates) {
  CopyX(input(layer), At(x_mid));
  LayerHooks hooks;
  hooks.after = [&](int, LayerStep step) {
    if (step == LayerStep::kQkvProjection && c.qk_norm) KeepRawHeads();
    return OkStatus();
  };
  hooks.attend = [&](int, AttentionInput* attention) {
    DUO_RETURN_IF_ERROR(student.Attend(*attention));
    ops->Mix(MixOf(layer, gates, attention->out), At(mixed));
    attention->out = At(mixed);
    return OkStatus();
  };
  hooks.skip_down = true;
  return transformer.RunLayer(layer, TokenKind::kPrompt, At(x_mid), {.activations = &act}, hooks);
}

void TeacherStudent::Impl::KeepRawHeads() {
  CopyFloats(act.q, At(raw_q), n * QWidth(c));
  CopyFloats(act.k, At(raw_k), n * KvWidth(c));
}

// x_out = x_mid + down(silu(gate) * up), with gate and up of norm(x_mid). act.normed is no longer needed and takes
// gradients.
Status TeacherStudent::Impl::MlpBackward(int layer) {
  const LayerWeights& lw = w.layers[layer];
  const LinearGradient down[] = {{lw.down, At(dx)}};
  DUO_RETURN_IF_ERROR(ops->Linear(options.compute, n, down, At(dh)));
  ops->SwiGlu(At(dh), act.gate, act.up, n * c.intermediate_size);
  const LinearGradient gate_up[] = {{lw.gate, act.gate}, {lw.up, act.up}};
  DUO_RETURN_IF_ERROR(ops->Linear(options.compute, n, gate_up, act.normed));
  ops->RmsNorm(At(x_mid), lw.mlp_norm, c.rms_norm_eps, n, Hidden(c), act.normed);
  ops->Add(At(dx), act.normed, n * Hidden(c));
  return OkStatus();
}

// x_mid = x + o(mixed), mixed = gate * full + (1 - gate) * streaming(q, k, v), with q, k, v of norm(x).
Status TeacherStudent::Impl::AttentionBackward(int layer, std::span<const double> gates, std::span<double> gradients) {
  const LayerWeights& lw = w.layers[layer];
  const LinearGradient out[] = {{lw.o, At(dx)}};
  DUO_RETURN_IF_ERROR(ops->Linear(options.compute, n, out, At(mixed)));
  const auto heads = static_cast<size_t>(c.n_kv_heads);
  ops->MixGradient(MixOf(layer, gates, act.attended), At(mixed),
                   gradients.subspan(static_cast<size_t>(layer) * heads, heads));
  if (layer == 0) return OkStatus();  // no gate is below this point
  float* const dq = act.attended;     // streaming attention is no longer needed
  const LambdaMask mask{student.cache.layout().sink, student.cache.layout().recent};
  DUO_RETURN_IF_ERROR(ops->Attention({.q = act.q,
                                      .k = act.k,
                                      .v = act.v,
                                      .d_out = At(mixed),
                                      .n_tokens = n,
                                      .n_kv_heads = c.n_kv_heads,
                                      .group = c.group(),
                                      .head_dim = c.head_dim,
                                      .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                                      .mask = mask,
                                      .dq = dq,
                                      .dk = At(dk),
                                      .dv = At(dv)}));
  // The gradient of a rotation is its transpose, which is the inverse rotation.
  const float* cos = transformer.rope_cos().data();
  backend->SetRotations(cos, minus_sin.data(), n, c.head_dim / 2);
  backend->Rope(dq, c.n_heads, At(dk), c.n_kv_heads, n, c.head_dim);
  backend->SetRotations(cos, transformer.rope_sin().data(), n, c.head_dim / 2);
  if (c.qk_norm) {
    ops->RmsNorm(At(raw_q), lw.q_norm, c.rms_norm_eps, n * c.n_heads, c.head_dim, dq);
    ops->RmsNorm(At(raw_k), lw.k_norm, c.rms_norm_eps, n * c.n_kv_heads, c.head_dim, At(dk));
  }
  const LinearGradient qkv[] = {{lw.q, dq}, {lw.k, At(dk)}, {lw.v, At(dv)}};
  DUO_RETURN_IF_ERROR(ops->Linear(options.compute, n, qkv, act.normed));
  ops->RmsNorm(input(layer), lw.attention_norm, c.rms_norm_eps, n, Hidden(c), act.normed);
  ops->Add(At(dx), act.normed, n * Hidden(c));
  return OkStatus();
}

}  // namespace duo
