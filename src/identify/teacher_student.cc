#include "identify/teacher_student.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "identify/memory_check.h"
#include "identify/teacher_student_impl.h"

namespace duo {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 20;
// Rows compared on the host at a time. It bounds the host's memory for a text of a million tokens.
constexpr int64_t kDistillRows = 256;

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

}  // namespace

std::vector<TeacherStudent::Impl::Allocation> TeacherStudent::Impl::Allocations(const ModelConfig& c, int64_t n) {
  const int64_t layers = c.n_layers, norms = c.qk_norm ? 1 : 0;
  return {{&Impl::inputs, (layers + 1) * n * c.hidden_size},
          {&Impl::full_outputs, layers * n * c.q_width()},
          {&Impl::dx, n * c.hidden_size},
          {&Impl::x_mid, n * c.hidden_size},
          {&Impl::mixed, n * c.q_width()},
          {&Impl::dh, n * c.intermediate_size},
          {&Impl::dk, n * c.kv_width()},
          {&Impl::dv, n * c.kv_width()},
          {&Impl::raw_q, norms * n * c.q_width()},
          {&Impl::raw_k, norms * n * c.kv_width()}};
}

Status TeacherStudent::Impl::Allocate() {
  // Once, for the longest text: steps must not fail for lack of memory after hours of training.
  for (const Allocation& allocation : Allocations(c, options.max_tokens)) {
    DUO_ASSIGN_OR_RETURN(this->*allocation.memory, backend->Allocate(allocation.floats * sizeof(float)));
  }
  return OkStatus();
}

TeacherStudent::TeacherStudent(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TeacherStudent::TeacherStudent(TeacherStudent&&) noexcept = default;
TeacherStudent& TeacherStudent::operator=(TeacherStudent&&) noexcept = default;
TeacherStudent::~TeacherStudent() = default;

uint64_t TeacherStudent::Bytes(const Model& model, const TwoStreamOptions& options) {
  const ModelConfig& c = model.config();
  const int64_t n = options.max_tokens, widest = std::max({c.hidden_size, c.q_width(), c.intermediate_size});
  uint64_t floats = 0;
  for (const Impl::Allocation& allocation : Impl::Allocations(c, n)) floats += allocation.floats;
  const KvLayout full = OneLayer(c, options, 1), streaming = OneLayer(c, options, 0);
  const uint64_t caches = full.TotalBytes(n) + streaming.TotalBytes(n) + DuoAttention::ScratchBytes(full, n) +
                          DuoAttention::ScratchBytes(streaming, n);
  // Scratch stays allocated after its first use, so that of both directions counts.
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
  const auto hidden = static_cast<double>(c.hidden_size), q = static_cast<double>(c.q_width());
  const auto qkv = hidden * (q + 2 * static_cast<double>(c.kv_width())), out = q * hidden;
  const auto mlp = hidden * static_cast<double>(c.intermediate_size);
  const double linear = 2 * n * (layers * (4 * (qkv + out) + 11 * mlp) - qkv);
  const double window = std::min(n, static_cast<double>(o.sink + o.recent));
  const double full_pairs = n * (n + 1) / 2, streaming_pairs = n * window - window * (window - 1) / 2;
  return linear + 2 * q * (layers * 2 * full_pairs + (layers * (2 + 2) + (layers - 1) * 5) * streaming_pairs);
}

Result<TeacherStudent> TeacherStudent::Create(const Model& model, const TwoStreamOptions& options) {
  if (model.backend()->identify_ops() == nullptr) {
    return Unsupported("this backend has no gradients; the CPU backend has them").About("device");
  }
  if (model.config().weights != WeightType::kNative) {
    // Gradients pass through the matrices, and the products of codes have no backward pass.
    return Unsupported(
        "finding heads by optimisation needs plain weights, but these are {}; use the checkpoint they were made from, "
        "or a method without training",
        WeightTypeName(model.config().weights));
  }
  if (options.max_tokens < 2 || options.max_tokens > kMaxTokens) {
    return InvalidArgument("a training text of {} tokens, expected 2..{}", options.max_tokens, kMaxTokens);
  }
  const KvLayout full_layout = OneLayer(model.config(), options, 1);
  const KvLayout streaming_layout = OneLayer(model.config(), options, 0);
  DUO_RETURN_IF_ERROR(CheckKvLayout(full_layout));
  DUO_RETURN_IF_ERROR(CheckKvLayout(streaming_layout));
  // The sum of everything is checked before the first part is allocated.
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
    return InvalidArgument("{} tokens, expected 2..{}", n_ids, options.max_tokens);
  }
  DUO_RETURN_IF_ERROR(CheckTokenIds(ids, c.vocab_size));
  if (labels.begin < 0 || labels.end > n_ids || labels.begin >= labels.end) {
    return InvalidArgument("labels {}..{} are not within the tokens 0..{}", labels.begin, labels.end - 1, n_ids - 1);
  }
  if (std::ssize(gates) != int64_t{c.n_layers} * c.n_kv_heads) {
    return InvalidArgument("{} gates, expected {} x {}", gates.size(), c.n_layers, c.n_kv_heads);
  }
  for (const double gate : gates) {
    if (!(gate >= 0 && gate <= 1)) return InvalidArgument("a gate of {:f}, expected 0..1", gate);
  }
  return OkStatus();
}

Result<TwoStreamLoss> TeacherStudent::Loss(std::span<const int32_t> ids, LabelRange labels,
                                           std::span<const double> gates, const GoOn& go_on) {
  DUO_RETURN_IF_ERROR(impl_->CheckArguments(ids, labels, gates));
  DUO_RETURN_IF_ERROR(impl_->Forward(ids, gates, go_on));
  TwoStreamLoss loss;
  DUO_ASSIGN_OR_RETURN(loss.distill, impl_->Distill(labels));
  // Checked before the backward pass, which would only spread it.
  if (!std::isfinite(loss.distill)) {
    return Internal(
        "model {}: its hidden states are NaN or infinite, and so is the loss; its weights are damaged, or their "
        "products overflow",
        impl_->c.name);
  }
  loss.gate_gradients.assign(gates.size(), 0.0);
  // Backwards, because each layer needs the gradient of the layer after it.
  for (int layer = impl_->c.n_layers - 1; layer >= 0; --layer) {
    if (go_on && !go_on()) return Cancelled();
    DUO_RETURN_IF_ERROR(impl_->BackwardLayer(layer, gates, loss.gate_gradients));
  }
  // One NaN would reach every gate through the optimiser's moments.
  for (const double gradient : loss.gate_gradients) {
    if (!std::isfinite(gradient)) return Internal("a gate's gradient is not finite");
  }
  return loss;
}

Status TeacherStudent::Impl::Forward(std::span<const int32_t> ids, std::span<const double> gates, const GoOn& go_on) {
  n = std::ssize(ids);
  DUO_RETURN_IF_ERROR(w.CheckFilesNowAndThen());
  // The caches never advance, so every step writes the same rows.
  DUO_RETURN_IF_ERROR(teacher.cache.Begin(n));
  DUO_RETURN_IF_ERROR(student.cache.Begin(n));
  transformer.Embed(ids, 0, &act);
  // Both streams begin with the same embeddings.
  CopyX(act.x, input(0));
  // The gradient of a rotation is the rotation by the negative angle.
  minus_sin = transformer.rope_sin();
  for (float& s : minus_sin) s = -s;
  for (int layer = 0; layer < c.n_layers; ++layer) {
    if (go_on && !go_on()) return Cancelled();
    DUO_RETURN_IF_ERROR(TeacherLayer(layer));  // first: the student mixes the teacher's attention into its own
    DUO_RETURN_IF_ERROR(StudentLayer(layer, gates));
  }
  return OkStatus();
}

Status TeacherStudent::Impl::TeacherLayer(int layer) {
  LayerHooks hooks;
  hooks.attend = [&](int, AttentionInput* attention) {
    attention->out = full(layer);  // kept for the student and for the backward pass
    return teacher.Attend(*attention);
  };
  return transformer.RunLayer(layer, TokenKind::kPrompt, act.x, {.activations = &act}, hooks);
}

Status TeacherStudent::Impl::StudentLayer(int layer, std::span<const double> gates) {
  float* const x = input(layer + 1);
  CopyX(input(layer), x);  // the layer changes x, and the backward pass needs its input again
  LayerHooks hooks;
  hooks.attend = [&](int, AttentionInput* attention) {
    DUO_RETURN_IF_ERROR(student.Attend(*attention));
    // In place: the forward pass does not need streaming attention alone. Recompute gets it again.
    ops->Mix(MixOf(layer, gates, attention->out), attention->out);
    return OkStatus();
  };
  return transformer.RunLayer(layer, TokenKind::kPrompt, x, {.activations = &act}, hooks);
}

// distill = 1 / (labels * hidden) sum (t - s)^2, where t and s are the hidden states after the final norm. dx = its
// gradient with respect to the student's x.
Result<double> TeacherStudent::Impl::Distill(LabelRange labels) {
  const int64_t hidden = c.hidden_size;
  const double scale = 1.0 / (static_cast<double>(labels.end - labels.begin) * static_cast<double>(hidden));
  std::vector<float> t(kDistillRows * hidden), s(t.size());
  double sum = 0;
  for (int64_t row = 0; row < n;) {
    // Rows without a label have no gradient. They are written as zeros.
    const bool is_label = row >= labels.begin && row < labels.end;
    const int64_t until = is_label ? labels.end : row < labels.begin ? labels.begin : n;
    const int64_t rows = std::min(kDistillRows, until - row);
    const size_t count = rows * hidden;
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
  // Through the final norm: dx becomes the gradient with respect to what the norm reads.
  const int64_t first = labels.begin * hidden;
  ops->RmsNorm(input(c.n_layers) + first, w.final_norm, c.rms_norm_eps, labels.end - labels.begin, hidden,
               At(dx) + first);
  return sum * scale;
}

}  // namespace duo
