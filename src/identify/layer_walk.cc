#include "identify/layer_walk.h"

#include <algorithm>
#include <string>

#include "backend/identify_ops.h"
#include "identify/memory_check.h"

namespace duo {
namespace {

KvLayout LayoutOf(const ModelConfig& c, int64_t max_tokens, ComputeType compute) {
  KvLayout layout;
  layout.heads = AllRetrieval(c.n_layers, c.n_kv_heads);
  layout.head_dim = c.head_dim;
  layout.type = compute == ComputeType::kF32 ? KvType::kF32 : KvType::kBF16;
  layout.capacity = max_tokens;
  return layout;
}

}  // namespace

uint64_t LayerWalk::Bytes(const Model& model, int64_t max_tokens, const WalkOptions& options) {
  const ModelConfig& c = model.config();
  const IdentifyOps* ops = model.backend()->identify_ops();
  const uint64_t weights_of_keys =
      ops == nullptr ? 0 : ops->KeyWeightScratchBytes(options.chunk, max_tokens, c.n_heads, c.head_dim);
  return LayoutOf(c, max_tokens, options.compute).TotalBytes(max_tokens) + Activations::Bytes(c, options.chunk) +
         static_cast<uint64_t>(options.chunk * c.n_heads) * sizeof(float) +
         model.backend()->MaxScratchBytes(CallBoundsOf(c, options.chunk, options.compute)) + weights_of_keys;
}

Result<LayerWalk> LayerWalk::Create(const Model& model, int64_t max_tokens, const WalkOptions& options) {
  const KvLayout layout = LayoutOf(model.config(), max_tokens, options.compute);
  DUO_RETURN_IF_ERROR(CheckKvLayout(layout));
  DUO_RETURN_IF_ERROR(CheckFits(model, max_tokens, Bytes(model, max_tokens, options), options.memory_limit));
  DUO_ASSIGN_OR_RETURN(SplitKvCache cache, SplitKvCache::Create(model.backend(), layout));
  DUO_ASSIGN_OR_RETURN(DuoAttention attention, DuoAttention::Create(model.backend(), layout, options.chunk));
  DUO_ASSIGN_OR_RETURN(Activations act, Activations::Create(model.backend(), model.config(), options.chunk));
  LayerWalk walk(model, options.compute, std::move(cache), std::move(attention), std::move(act));
  DUO_ASSIGN_OR_RETURN(walk.lse_, model.backend()->Allocate(options.chunk * model.config().n_heads * sizeof(float)));
  return walk;
}

Status LayerWalk::RunInChunks(std::span<const int32_t> ids, const LayerObserver& observer, ProgressCounter* counter) {
  for (int64_t at = 0; at < std::ssize(ids);) {
    const int64_t n = std::min(chunk(), std::ssize(ids) - at);
    DUO_RETURN_IF_ERROR(Run(ids.subspan(at, n), observer));
    DUO_RETURN_IF_ERROR(counter->Add(n));
    at += n;
  }
  return OkStatus();
}

Status LayerWalk::Observe(int layer, LayerStep step, const LayerObserver& observer) const {
  const int64_t n = act_.n_tokens, q_width = config_->q_width();
  LayerView view{.layer = layer, .pos = cache_.len(), .n = n, .q = act_.q, .k = act_.k, .v = act_.v};
  const auto input = [&](LinearInput which, const float* x, int64_t dim) {
    if (!observer.linear_input) return OkStatus();
    return observer.linear_input({.layer = layer, .input = which, .x = x, .n = n, .dim = dim});
  };
  switch (step) {
    case LayerStep::kQkvProjection: return input(LinearInput::kAttention, act_.normed, config_->hidden_size);
    case LayerStep::kQkNorm: return observer.before_rope ? observer.before_rope(view) : OkStatus();
    case LayerStep::kRope: return OkStatus();
    case LayerStep::kAttention:
      view.lse = lse();
      return observer.after_attention ? observer.after_attention(view) : OkStatus();
    case LayerStep::kOutputProjection: return input(LinearInput::kOutput, act_.attended, q_width);
    case LayerStep::kGateUp: return input(LinearInput::kMlp, act_.normed, config_->hidden_size);
    case LayerStep::kDown: return input(LinearInput::kDown, act_.gate, config_->intermediate_size);
  }
  return OkStatus();
}

Status LayerWalk::Run(std::span<const int32_t> ids, const LayerObserver& observer) {
  const auto n = std::ssize(ids);
  DUO_RETURN_IF_ERROR(CheckTokenIds(ids, config_->vocab_size));
  DUO_RETURN_IF_ERROR(weights_->CheckFilesNowAndThen());
  DUO_RETURN_IF_ERROR(cache_.Begin(n));
  transformer_->Embed(ids, cache_.len(), &act_);
  LayerHooks hooks;
  hooks.attend = [&](int layer, AttentionInput* input) {
    input->lse = lse();  // the scores need the sum over all keys, which attention computes anyway
    return attention_.Run(*input, layer, &cache_);
  };
  hooks.after = [&](int layer, LayerStep step) { return Observe(layer, step, observer); };
  hooks.keep_prepared = observer.linear_input != nullptr;
  for (int layer = 0; layer < config_->n_layers; ++layer) {
    DUO_RETURN_IF_ERROR(transformer_->RunLayer(layer, TokenKind::kPrompt, act_.x, {.activations = &act_}, hooks));
  }
  cache_.Advance(n);
  return OkStatus();
}

}  // namespace duo
