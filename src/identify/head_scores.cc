#include "identify/head_scores.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "backend/identify_ops.h"
#include "base/error.h"

namespace duo {
namespace {

constexpr int kProfilePositions = 500;

int64_t HeadCount(const ModelConfig& c) { return int64_t{c.n_layers} * c.n_kv_heads; }
float ScaleOf(const ModelConfig& c) { return 1.0f / std::sqrt(static_cast<float>(c.head_dim)); }

/// kInternal if a score is NaN or infinite.
Result<std::vector<double>> Checked(const ModelConfig& c, std::vector<double> scores) {
  for (size_t i = 0; i < scores.size(); ++i) {
    if (std::isfinite(scores[i])) continue;
    return Internal(
        "model {}: the attention of layer {} is NaN or infinite; its weights are damaged, or their products overflow",
        c.name, i / c.n_kv_heads);
  }
  return scores;
}

Status CheckTexts(const std::vector<std::vector<int32_t>>& texts, int64_t* longest, int64_t* total) {
  if (texts.empty()) return InvalidArgument("there are no texts to run");
  *longest = *total = 0;
  for (const std::vector<int32_t>& text : texts) {
    const auto n = std::ssize(text);
    if (n < 2) return InvalidArgument("a text has less than two tokens");
    *longest = std::max(*longest, n);
    *total += n;
  }
  return OkStatus();
}

/// Sums of q and k before RoPE over the tokens of one text. The caller divides them to get means.
struct Means {
  Means(Backend* b, const ModelConfig& c)
      : backend(b), q(c.n_layers * c.q_width(), 0.0), k(c.n_layers * c.kv_width(), 0.0) {}
  Status Add(const LayerView& view, const ModelConfig& c) {
    DUO_RETURN_IF_ERROR(AddRows(view.q, view.n, c.q_width(), view.layer, &q));
    return AddRows(view.k, view.n, c.kv_width(), view.layer, &k);
  }
  Status AddRows(const float* rows, int64_t n, int64_t width, int layer, std::vector<double>* sums) {
    host_rows.resize(n * width);
    DUO_RETURN_IF_ERROR(backend->ToHost(rows, host_rows.data(), host_rows.size() * sizeof(float)));
    double* sum = sums->data() + layer * width;
    for (size_t i = 0; i < host_rows.size(); ++i) sum[i % width] += double{host_rows[i]};
    return OkStatus();
  }
  Backend* backend;
  std::vector<float> host_rows;
  std::vector<double> q, k;  // [n_layers, n_heads or n_kv_heads, head_dim]
};

// The dot product of q rotated to position i and k rotated to position j depends only on i - j = `distance`. With
// h = head_dim / 2 it is
//   amplitude^2 sum_d (q_d k_d + q_{d+h} k_{d+h}) cos(w_d distance) + (q_d k_{d+h} - q_{d+h} k_d) sin(w_d distance).
double RotatedDot(const double* q, const double* k, const ModelConfig& c, int distance) {
  const size_t half = c.inv_freq.size();
  double dot = 0;
  for (size_t d = 0; d < half; ++d) {
    const double angle = c.inv_freq[d] * distance;
    const double along = q[d] * k[d] + q[d + half] * k[d + half];
    const double across = q[d] * k[d + half] - q[d + half] * k[d];
    dot += along * std::cos(angle) + across * std::sin(angle);
  }
  return dot * c.rope_amplitude * c.rope_amplitude;
}

// Mean over positions of the running sum of the last query's attention.
double ProfileOf(const double* q, const double* k, const ModelConfig& c) {
  double weights[kProfilePositions], max = -INFINITY, sum = 0, running = 0, area = 0;
  for (int j = 0; j < kProfilePositions; ++j) {
    weights[j] = RotatedDot(q, k, c, kProfilePositions - 1 - j) * double{ScaleOf(c)};
    max = std::max(max, weights[j]);
  }
  for (double& weight : weights) sum += weight = std::exp(weight - max);
  for (const double weight : weights) area += running += weight / sum;
  return area / kProfilePositions;
}

}  // namespace

Result<std::vector<double>> RepeatScores(const Model& model, const RepeatInput& input, const WalkOptions& options,
                                         const ProgressCallback& progress) {
  const ModelConfig& c = model.config();
  IdentifyOps* ops = model.backend()->identify_ops();
  if (ops == nullptr) {
    return Unsupported("this backend cannot find heads; the CPU backend can").About("device");
  }
  if (input.sink < 0 || input.repeat_chunk < 1 || std::ssize(input.context) <= input.sink) {
    return InvalidArgument("the text to repeat has {} tokens, expected more than the {} sink tokens",
                           input.context.size(), input.sink);
  }
  const auto n_context = std::ssize(input.context), n_prompt = std::ssize(input.prompt);
  const int64_t longest = n_context + n_prompt + std::min(input.repeat_chunk, n_context);
  const int64_t n_pieces = (n_context + input.repeat_chunk - 1) / input.repeat_chunk;
  DUO_ASSIGN_OR_RETURN(LayerWalk walk, LayerWalk::Create(model, longest, options));
  ProgressCounter counter(progress, "repeat", "tokens", 2 * n_context + n_pieces * n_prompt);
  DUO_RETURN_IF_ERROR(walk.RunInChunks(input.context, {}, &counter));

  std::vector<double> scores(HeadCount(c), 0.0);
  std::vector<const uint8_t*> keys(c.n_kv_heads);
  LayerObserver observer;
  observer.after_attention = [&](const LayerView& view) {
    const size_t sink_bytes = input.sink * c.head_dim * DTypeBytes(walk.key_type());
    for (int h = 0; h < c.n_kv_heads; ++h) keys[h] = walk.keys(view.layer, h) + sink_bytes;
    return ops->LargestKeyWeights({.q = view.q,
                                   .lse = view.lse,
                                   .host_keys = keys,
                                   .key_type = walk.key_type(),
                                   .n_tokens = view.n,
                                   .n_keys = n_context - input.sink,
                                   .group = c.group(),
                                   .head_dim = c.head_dim,
                                   .scale = ScaleOf(c)},
                                  std::span(scores).subspan(view.layer * c.n_kv_heads, c.n_kv_heads));
  };
  for (int64_t begin = 0; begin < n_context; begin += input.repeat_chunk) {
    // The model is asked to repeat the text in pieces: each piece sees the context and the prompt, but no other piece.
    const auto piece = input.context.subspan(begin, std::min(input.repeat_chunk, n_context - begin));
    DUO_RETURN_IF_ERROR(walk.RunInChunks(input.prompt, {}, &counter));
    DUO_RETURN_IF_ERROR(walk.RunInChunks(piece, observer, &counter));
    walk.Rewind(n_context);
  }
  return Checked(c, std::move(scores));
}

Result<std::vector<double>> ProfileScores(const Model& model, const std::vector<std::vector<int32_t>>& texts,
                                          const WalkOptions& options, const ProgressCallback& progress) {
  const ModelConfig& c = model.config();
  int64_t longest = 0, total = 0;
  DUO_RETURN_IF_ERROR(CheckTexts(texts, &longest, &total));
  DUO_ASSIGN_OR_RETURN(LayerWalk walk, LayerWalk::Create(model, longest, options));
  ProgressCounter counter(progress, "profile", "tokens", total);
  std::vector<double> scores(HeadCount(c), 0.0);
  for (const std::vector<int32_t>& text : texts) {
    Means means(model.backend(), c);
    LayerObserver observer;
    observer.before_rope = [&](const LayerView& view) { return means.Add(view, c); };
    walk.Rewind(0);
    DUO_RETURN_IF_ERROR(walk.RunInChunks(text, observer, &counter));
    for (double& x : means.q) x /= static_cast<double>(text.size());
    for (double& x : means.k) x /= static_cast<double>(text.size());
    const int64_t dim = c.head_dim, group = c.group();
    const double share = 1.0 / static_cast<double>(group * std::ssize(texts));
    for (int64_t head = 0; head < std::ssize(scores); ++head) {
      for (int64_t g = 0; g < group; ++g) {
        scores[head] += share * ProfileOf(&means.q[(head * group + g) * dim], &means.k[head * dim], c);
      }
    }
  }
  return Checked(c, std::move(scores));
}

namespace {

/// Runs all heads of a layer as streaming heads over the full cache. Writes their output, [n, n_heads, head_dim], and
/// lse, [n, n_heads].
Status StreamingAttention(const Model& model, const LayerView& view, const LambdaMask& mask, ComputeType compute,
                          LayerWalk* walk, float* out, float* lse) {
  const ModelConfig& c = model.config();
  const int64_t group = c.group();
  std::vector<PrefillHead> heads;
  for (int h = 0; h < c.n_kv_heads; ++h) {
    heads.push_back({.q = view.q + h * group * c.head_dim,
                     .k = walk->keys(view.layer, h),
                     .v = walk->keys(view.layer, h),  // any rows will do: the output is not used
                     .n_rows = view.pos + view.n,
                     .mask = mask,
                     .out = out + h * group * c.head_dim,
                     .lse = lse + h * group});
  }
  return model.backend()->PrefillAttention({.group = c.group(),
                                            .head_dim = c.head_dim,
                                            .q_stride = c.q_width(),
                                            .lse_stride = c.n_heads,
                                            .q_pos = view.pos,
                                            .n_tokens = view.n,
                                            .kv_type = walk->kv_type(),
                                            .compute = compute,
                                            .scale = ScaleOf(c)},
                                           heads);
}

}  // namespace

// lse(streaming attention) - lse(full attention) is the logarithm of the share of attention that streaming keeps.
Result<std::vector<double>> OutsideMassScores(const Model& model, const std::vector<std::vector<int32_t>>& texts,
                                              int64_t sink, int64_t recent, const WalkOptions& options,
                                              const ProgressCallback& progress) {
  const ModelConfig& c = model.config();
  int64_t longest = 0, total = 0;
  DUO_RETURN_IF_ERROR(CheckTexts(texts, &longest, &total));
  DUO_ASSIGN_OR_RETURN(LayerWalk walk, LayerWalk::Create(model, longest, options));
  const int64_t n_heads = c.n_heads, q_width = c.q_width();
  DUO_ASSIGN_OR_RETURN(const DeviceMemoryPtr out, model.backend()->Allocate(options.chunk * q_width * sizeof(float)));
  std::vector<float> kept(options.chunk * n_heads);
  DUO_ASSIGN_OR_RETURN(const DeviceMemoryPtr kept_memory, model.backend()->Allocate(kept.size() * sizeof(float)));
  std::vector<double> scores(HeadCount(c), 0.0);
  ProgressCounter counter(progress, "attention mass", "tokens", total);
  LayerObserver observer;
  observer.after_attention = [&](const LayerView& view) -> Status {
    DUO_RETURN_IF_ERROR(StreamingAttention(model, view, {.sink = sink, .window = recent}, options.compute, &walk,
                                           reinterpret_cast<float*>(out->data()),
                                           reinterpret_cast<float*>(kept_memory->data())));
    std::vector<float> full(view.n * n_heads);
    DUO_RETURN_IF_ERROR(model.backend()->ToHost(view.lse, full.data(), full.size() * sizeof(float)));
    DUO_RETURN_IF_ERROR(model.backend()->ToHost(kept_memory->data(), kept.data(), full.size() * sizeof(float)));
    for (size_t i = 0; i < full.size(); ++i) {
      const size_t head = i % n_heads / c.group();
      const double log_share = double{kept[i]} - double{full[i]};  // at most 0, except for rounding
      const double outside = log_share > 0 ? 0.0 : 1 - std::exp(log_share);
      scores[view.layer * c.n_kv_heads + head] += outside / static_cast<double>(total * c.group());
    }
    return OkStatus();
  };
  for (const std::vector<int32_t>& text : texts) {
    walk.Rewind(0);
    DUO_RETURN_IF_ERROR(walk.RunInChunks(text, observer, &counter));
  }
  return Checked(c, std::move(scores));
}

}  // namespace duo
