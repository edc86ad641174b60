#include <fmt/core.h>

#include <algorithm>
#include <iterator>

#include "attention/duo_attention.h"
#include "backend/backend.h"
#include "base/error.h"
#include "engine/session_layout.h"
#include "kv/split_kv_cache.h"
#include "model/activations.h"

namespace duo {
namespace {

constexpr int64_t kMaxChunk = 65536;
constexpr int64_t kMaxTokens = int64_t{1} << 36;

// No token sees beyond the context, so a longer window would only waste memory. A window of `context - sink` tokens
// reaches from the last position back to the sinks.
void LimitToContext(SessionOptions* options) {
  const int64_t context = options->max_context;
  options->chunk = std::min(options->chunk, context);
  options->sink = std::min(options->sink, context);
  const int64_t window = std::max<int64_t>(context - options->sink, 1);
  options->recent = std::min(options->recent, window);
  options->prefill_recent = std::min(options->prefill_recent, window);
}

}  // namespace

Result<SessionOptions> ResolveOptions(const ModelConfig& config, const SessionOptions& given) {
  SessionOptions options = given;
  if (options.chunk < 1 || options.chunk > kMaxChunk) {
    return BadOption("chunk", options.chunk, fmt::format("1..{} tokens", kMaxChunk));
  }
  if (options.compute == ComputeType::kInt8 && config.weights != WeightType::kInt8) {
    return InvalidArgument("int8 products need int8 weights; these are {}",
                           config.weights == WeightType::kInt4 ? "int4" : DTypeName(config.weights_type))
        .About("compute");
  }
  if (options.heads.n_layers == 0) options.heads = AllRetrieval(config.n_layers, config.n_kv_heads);
  const int64_t n_heads = int64_t{config.n_layers} * config.n_kv_heads;
  if (options.heads.n_layers != config.n_layers || options.heads.n_kv_heads != config.n_kv_heads ||
      std::ssize(options.heads.retrieval) != n_heads) {
    return InvalidArgument("the choice of heads is for {} layers x {} KV heads, the model has {} x {}",
                           options.heads.n_layers, options.heads.n_kv_heads, config.n_layers, config.n_kv_heads)
        .About("heads");
  }
  if (options.sink < 0) return BadOption("sink", options.sink, "0 or more tokens");
  if (options.pinned_prefix < 0) return BadOption("pinned_prefix", options.pinned_prefix, "0 or more tokens");
  if (options.prefill_recent == 0) options.prefill_recent = std::max<int64_t>(options.recent, 1);
  options.sink = std::max(options.sink, options.pinned_prefix);
  if (options.max_context < 0) return BadOption("max_context", options.max_context, "0 or more tokens");
  options.max_context = config.ContextFor(options.max_context);
  if (config.max_context > 0 && options.max_context > config.max_context) {
    return BadOption("max_context", options.max_context,
                     fmt::format("at most {} for this model, whose config.json has {}", config.max_context,
                                 config.max_context_reason));
  }
  DUO_RETURN_IF_ERROR(CheckKvLayout(LayoutOf(config, options)));
  LimitToContext(&options);
  return options;
}

KvLayout LayoutOf(const ModelConfig& config, const SessionOptions& resolved) {
  return {.heads = resolved.heads,
          .head_dim = config.head_dim,
          .type = resolved.kv_type,
          .sink = resolved.sink,
          .recent = resolved.recent,
          .prefill_recent = resolved.prefill_recent,
          .capacity = resolved.max_context,
          .snapshot_every = resolved.snapshot_every};
}

Result<MemoryPlan> PlanMemory(const ModelConfig& config, uint64_t weights_bytes, const SessionOptions& options,
                              const Backend& backend) {
  DUO_ASSIGN_OR_RETURN(const SessionOptions resolved, ResolveOptions(config, options));
  const KvLayout layout = LayoutOf(config, resolved);
  MemoryPlan plan;
  plan.weights_bytes = weights_bytes;
  plan.kv_bytes_per_token = layout.BytesPerToken();
  plan.kv_fixed_bytes = layout.FixedBytes();
  plan.kv_page_bytes = SplitKvCache::PageBytes(layout, backend.CommitBytes());
  plan.snapshot_every = resolved.snapshot_every;
  plan.snapshot_bytes_each = layout.SnapshotBytes(resolved.snapshot_every);
  CallBounds bounds = CallBoundsOf(config, resolved.chunk, resolved.compute);
  bounds.n_layers = config.n_layers;
  bounds.n_sequences = Session::kMaxTogether;
  plan.scratch_bytes = backend.MaxScratchBytes(bounds);
  plan.activation_bytes = Activations::Bytes(config, resolved.chunk) +
                          DuoAttention::ScratchBytes(layout, resolved.chunk) + plan.scratch_bytes;
  return plan;
}

uint64_t MemoryPlan::KvBytes(int64_t n_tokens) const {
  const int64_t snapshots = snapshot_every == 0 ? 0 : n_tokens / snapshot_every;
  return kv_fixed_bytes + kv_bytes_per_token * n_tokens + (n_tokens > 0 ? kv_page_bytes : 0) +
         snapshot_bytes_each * snapshots;
}

uint64_t MemoryPlan::TotalBytes(int64_t n_tokens) const { return weights_bytes + activation_bytes + KvBytes(n_tokens); }

int64_t MemoryPlan::MaxContext(uint64_t bytes) const {
  int64_t low = 0, high = kMaxTokens;  // bisects, because TotalBytes grows with n_tokens
  if (TotalBytes(0) > bytes) return 0;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (TotalBytes(middle) <= bytes) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace duo
