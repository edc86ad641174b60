#include "eval/bench.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "backend/backend.h"
#include "backend/meter.h"
#include "base/align.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "model/weights.h"

namespace duo {
namespace {

// Modes take turns after this many decode steps.
constexpr int64_t kStepsPerTurn = 8;
// Passes over memory that measure its bandwidth, before each turn and after it.
constexpr int kReadPasses = 2;

/// The smallest sample that at least `share` of the samples do not exceed. For 0.5 it is the median, which is the mean
/// of the middle two.
double Quantile(std::vector<double> samples, double share) {
  std::sort(samples.begin(), samples.end());
  const size_t n = samples.size();
  if (share == 0.5) return (samples[(n - 1) / 2] + samples[n / 2]) / 2;
  return samples[static_cast<size_t>(std::ceil(share * static_cast<double>(n))) - 1];
}

/// Elements and bytes of the layers' matrices, and of the last matrix, which only tokens with logits go through.
struct MatrixSizes {
  double layer_elements = 0, layer_bytes = 0;
  double head_elements = 0, head_bytes = 0;
};

MatrixSizes SizesOf(const Model& model) {
  MatrixSizes sizes;
  const Model::Weights& weights = model.weights();
  const auto add = [](const MatrixView& view, double* elements, double* bytes) {
    *elements += static_cast<double>(view.n_out) * static_cast<double>(view.n_in);
    *bytes += static_cast<double>(view.bytes());
  };
  for (const LayerWeights& layer : weights.layers) {
    for (const MatrixView* view : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      add(*view, &sizes.layer_elements, &sizes.layer_bytes);
    }
  }
  add(weights.lm_head, &sizes.head_elements, &sizes.head_bytes);
  return sizes;
}

/// Work per token that a test cannot avoid.
struct Work {
  double kv_bytes = 0;
  double weight_bytes = 0;
  double attention_flop = 0;
  double linear_flop = 0;
};

/// Counts rows of K, and as many of V. A streaming head sees at most sink + window of them (docs/design.md).
class WorkCounter {
 public:
  WorkCounter(const Model& model, const SessionOptions& options)
      : sizes_(SizesOf(model)),
        n_retrieval_(options.heads.n_retrieval()),
        n_streaming_(static_cast<double>(options.heads.retrieval.size()) - n_retrieval_),
        row_bytes_(2.0 * static_cast<double>(KvRowBytes(options.kv_type, model.config().head_dim))),
        pair_flop_(4.0 * model.config().head_dim * model.config().group()),
        options_(options) {}

  Work Decode(int64_t depth) const {
    const double rows = Rows(depth + 1, options_.sink + options_.recent);
    return {.kv_bytes = rows * row_bytes_,
            .weight_bytes = sizes_.layer_bytes + sizes_.head_bytes,
            .attention_flop = rows * pair_flop_,
            .linear_flop = 2 * (sizes_.layer_elements + sizes_.head_elements)};
  }

  Work Prefill(int64_t depth, int64_t n) const {
    Work work;
    for (int64_t pos = depth; pos < depth + n; ++pos) {
      work.attention_flop += Rows(pos + 1, options_.sink + options_.prefill_recent) * pair_flop_;
    }
    for (int64_t begin = 0; begin < n; begin += options_.chunk) {
      const int64_t end = std::min(n, begin + options_.chunk);
      work.kv_bytes += Rows(depth + end, options_.sink + options_.prefill_recent + end - begin) * row_bytes_;
      work.weight_bytes += sizes_.layer_bytes;
    }
    const auto tokens = static_cast<double>(n);
    return {.kv_bytes = work.kv_bytes / tokens,
            .weight_bytes = (work.weight_bytes + sizes_.head_bytes) / tokens,
            .attention_flop = work.attention_flop / tokens,
            .linear_flop = 2 * (sizes_.layer_elements + sizes_.head_elements / tokens)};
  }

 private:
  /// Rows of all KV heads when n exist and a streaming head sees at most `max_seen`.
  double Rows(int64_t n, int64_t max_seen) const {
    return n_retrieval_ * static_cast<double>(n) + n_streaming_ * static_cast<double>(std::min(n, max_seen));
  }

  MatrixSizes sizes_;
  double n_retrieval_, n_streaming_;
  double row_bytes_;  // of K and V together
  double pair_flop_;  // q k and p v: two operations per element each, for every q head of the group
  SessionOptions options_;
};

/// Milliseconds per token, one entry per sample.
struct Samples {
  std::vector<double> total, attention, linear;
  std::vector<double> read_gb_s;  // bandwidth of the memory, measured before and after each turn

  void AddTotal(double ms, double tokens) { total.push_back(ms / tokens); }
  void AddTimes(const BackendTimes& times, double tokens) {
    attention.push_back(times.attention_s * 1e3 / tokens);
    linear.push_back(times.linear_s * 1e3 / tokens);
  }
};

/// One mode at one depth.
class DepthRun {
 public:
  static Result<DepthRun> Start(const Model& model, const BenchMode& mode, const BenchTests& tests, int64_t depth,
                                const ProgressCallback& progress) {
    DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model, OptionsAt(mode, tests, depth)));
    DepthRun run(model, mode.name, std::move(session), depth);
    DUO_RETURN_IF_ERROR(run.FillTo(depth, tests, progress));
    const uint64_t snapshot = tests.UsesSnapshot(depth) ? run.session_.plan().snapshot_bytes_each : 0;
    run.kv_bytes_ = run.session_.kv_bytes() - snapshot;
    return run;
  }

  /// Decodes n_steps tokens that count, after one that warms the caches. If taking the times of a step's parts slows it
  /// down, they are taken in one more step after the others.
  Status DecodeTurn(int64_t n_steps, const GoOn& go_on) {
    DUO_RETURN_IF_ERROR(MeasureMemory(&decode_));
    const bool free = meter()->TimesAreFree();
    for (int64_t step = 0; step <= n_steps + (free ? 0 : 1); ++step) {
      const bool counts = step > 0 && step <= n_steps, timed = free || step > n_steps;
      if (timed) meter()->ResetTimes();
      const auto begin = Clock::now();
      DUO_RETURN_IF_ERROR(session_.Decode(RandomIds(1)[0]));
      if (counts) decode_.AddTotal(1e3 * SecondsSince(begin), 1);
      if (timed && step > 0) decode_.AddTimes(meter()->Times(), 1);
      if (go_on && !go_on()) return Cancelled();
    }
    return MeasureMemory(&decode_);
  }

  Status PrefillOnce(int64_t n, const ProgressCallback& progress) {
    DUO_RETURN_IF_ERROR(session_.Rewind(depth_, progress));
    DUO_RETURN_IF_ERROR(MeasureMemory(&prefill_));
    const std::vector<int32_t> ids = RandomIds(n);
    meter()->ResetTimes();
    const auto begin = Clock::now();
    DUO_RETURN_IF_ERROR(session_.Prefill(ids, progress));
    prefill_.AddTotal(1e3 * SecondsSince(begin), static_cast<double>(n));
    prefill_.AddTimes(meter()->Times(), static_cast<double>(n));
    return MeasureMemory(&prefill_);
  }

  /// Appends the row of `test` and the bandwidths of the memory during it. Does nothing when the test did not run.
  void AddRow(const std::string& test, const BenchTests& tests, BenchReport* report,
              std::vector<double>* read_gb_s) const {
    const Samples& samples = test == "decode" ? decode_ : prefill_;
    if (samples.total.empty()) return;
    const WorkCounter counter(*model_, session_.options());
    const auto n_samples = std::ssize(samples.total);
    // Every step adds a token to the cache, so the work of the middle step is the mean of all.
    const Work work =
        test == "decode" ? counter.Decode(depth_ + n_samples / 2) : counter.Prefill(depth_, tests.prefill);
    report->rows.push_back(Row(test, test == "decode" ? n_samples : tests.prefill, samples, work, tests, *report));
    read_gb_s->insert(read_gb_s->end(), samples.read_gb_s.begin(), samples.read_gb_s.end());
  }

  /// KV and activations. The backend's scratch is left out, because all sessions share it.
  uint64_t planned_bytes(const BenchTests& tests) const {
    const MemoryPlan& plan = session_.plan();
    return plan.activation_bytes - plan.scratch_bytes + plan.KvBytes(tests.Longest(depth_));
  }

  /// The backend's scratch, which all sessions share.
  uint64_t scratch_bytes() const { return session_.plan().scratch_bytes; }

 private:
  DepthRun(const Model& model, std::string mode, Session session, int64_t depth)
      : model_(&model), mode_(std::move(mode)), session_(std::move(session)), depth_(depth) {}

  Meter* meter() const { return model_->backend()->meter(); }

  Status MeasureMemory(Samples* samples) const {
    for (int pass = 0; pass < kReadPasses; ++pass) {
      DUO_ASSIGN_OR_RETURN(const double gb_s, meter()->MeasureReadBandwidth());
      samples->read_gb_s.push_back(gb_s);
    }
    return OkStatus();
  }

  Status FillTo(int64_t depth, const BenchTests& tests, const ProgressCallback& progress) {
    if (depth == 0) return OkStatus();
    if (tests.fill == CacheFill::kPrefill) return session_.Prefill(RandomIds(depth), progress);
    if (!tests.UsesSnapshot(depth)) return session_.FillSynthetic(depth, kSeed);
    // Synthetic rows take no snapshot. The last token is prefilled, so that a snapshot of this depth exists.
    DUO_RETURN_IF_ERROR(session_.FillSynthetic(depth - 1, kSeed));
    return session_.Prefill(RandomIds(1), progress);
  }

  std::vector<int32_t> RandomIds(int64_t n) {
    std::vector<int32_t> ids(n);
    const auto vocab = static_cast<uint64_t>(model_->config().vocab_size);
    for (int32_t& id : ids) id = static_cast<int32_t>(rng_.Below(vocab));
    return ids;
  }

  BenchRow Row(const std::string& test, int64_t tokens, const Samples& samples, const Work& work,
               const BenchTests& tests, const BenchReport& report) const {
    BenchRow row;
    row.test = test;
    row.mode = mode_;
    row.depth = depth_;
    row.tokens = tokens;
    row.weights = model_->weights().layers[0].q.type_name();
    row.kv_type = KvTypeName(session_.options().kv_type);
    row.sparsity = session_.options().heads.sparsity();
    row.ms_per_token = Quantile(samples.total, 0.5);
    row.ms_per_token_p90 = Quantile(samples.total, 0.9);
    row.attention_ms = Quantile(samples.attention, 0.5);
    row.linear_ms = Quantile(samples.linear, 0.5);
    row.attention_gb_s = work.kv_bytes / row.attention_ms / 1e6;
    row.attention_gflop_s = work.attention_flop / row.attention_ms / 1e6;
    row.gemm_gflop_s = work.linear_flop / row.linear_ms / 1e6;
    row.linear_gb_s = work.weight_bytes / row.linear_ms / 1e6;
    row.kv_bytes = kv_bytes_;
    row.bytes_per_token = work.kv_bytes + work.weight_bytes;
    row.read_gb_s = Quantile(samples.read_gb_s, 0.5);
    row.floor_ms = std::max(row.bytes_per_token / row.read_gb_s,
                            (work.attention_flop + work.linear_flop) / report.gemm_ceiling()) /
                   1e6;
    row.fill = tests.fill == CacheFill::kSynthetic ? "synthetic" : "prefill";
    return row;
  }

  static constexpr uint64_t kSeed = 1;
  const Model* model_;
  std::string mode_;
  Session session_;
  int64_t depth_;
  uint64_t kv_bytes_ = 0;
  Rng rng_{kSeed};
  Samples decode_, prefill_;
};

/// Runs all tests on these modes, which take turns.
Status RunTurns(const BenchTests& tests, const ProgressCallback& progress, const GoOn& go_on,
                std::vector<DepthRun>* runs) {
  for (int repetition = 0; repetition < tests.repeat; ++repetition) {
    for (int64_t done = 0; done < tests.decode; done += kStepsPerTurn) {
      for (DepthRun& run : *runs) {
        DUO_RETURN_IF_ERROR(run.DecodeTurn(std::min(kStepsPerTurn, tests.decode - done), go_on));
      }
    }
  }
  for (int repetition = 0; tests.prefill > 0 && repetition < tests.repeat; ++repetition) {
    for (DepthRun& run : *runs) DUO_RETURN_IF_ERROR(run.PrefillOnce(tests.prefill, progress));
  }
  return OkStatus();
}

/// Runs one chunk that is not timed, because kernels are set up at their first use.
Status WarmUpPrefill(const Model& model, const BenchMode& mode, const BenchTests& tests) {
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model, OptionsAt(mode, tests, 0)));
  return session.Prefill(std::vector<int32_t>(std::min(tests.prefill, mode.session.chunk), 0));
}

}  // namespace

int64_t BenchTests::Longest(int64_t depth) const {
  const int64_t turns = DivideUp(decode, kStepsPerTurn);
  return depth + std::max<int64_t>({1, prefill, repeat * (decode + 2 * turns)});
}

bool BenchTests::UsesSnapshot(int64_t depth) const { return prefill > 0 && depth >= 2 * (Longest(depth) - depth); }

SessionOptions OptionsAt(const BenchMode& mode, const BenchTests& tests, int64_t depth) {
  SessionOptions options = mode.session;
  options.max_context = tests.Longest(depth);
  options.snapshot_every = tests.UsesSnapshot(depth) ? depth : 0;
  return options;
}

Result<uint64_t> PlannedBytes(const BenchMode& mode, const BenchTests& tests, int64_t depth, const ModelConfig& config,
                              const Backend& backend) {
  DUO_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(config, 0, OptionsAt(mode, tests, depth), backend));
  return plan.TotalBytes(tests.Longest(depth));
}

Status MeasureCeilings(ComputeType compute, Backend* backend, BenchReport* report) {
  Meter* const meter = backend->meter();
  DUO_RETURN_IF_ERROR(meter->MeasureReadBandwidth().status());
  DUO_ASSIGN_OR_RETURN(report->gemm_bf16_gflop_s, meter->MeasureGemm(ComputeType::kBF16));
  if (compute == ComputeType::kF32) {
    DUO_ASSIGN_OR_RETURN(const double f32, meter->MeasureGemm(ComputeType::kF32));
    report->gemm_f32_gflop_s = f32;
  }
  if (compute == ComputeType::kInt8) {
    DUO_ASSIGN_OR_RETURN(const double int8, meter->MeasureGemm(ComputeType::kInt8));
    report->gemm_int8_gop_s = int8;
  }
  return OkStatus();
}

Status RunBenchTests(const Model& model, const std::vector<BenchMode>& modes, const BenchTests& tests, bool interleaved,
                     const ProgressCallback& progress, const GoOn& go_on, BenchReport* report) {
  if (tests.prefill > 0) DUO_RETURN_IF_ERROR(WarmUpPrefill(model, modes[0], tests));
  std::vector<std::vector<BenchMode>> groups;  // modes whose sessions exist at the same time
  for (const BenchMode& mode : modes) {
    if (groups.empty() || !interleaved) groups.emplace_back();
    groups.back().push_back(mode);
  }
  std::vector<double> read_gb_s;
  for (const int64_t depth : tests.depths) {
    const size_t first_row = report->rows.size();
    for (const std::vector<BenchMode>& group : groups) {
      std::vector<DepthRun> runs;
      for (const BenchMode& mode : group) {
        DUO_ASSIGN_OR_RETURN(DepthRun run, DepthRun::Start(model, mode, tests, depth, progress));
        runs.push_back(std::move(run));
      }
      DUO_RETURN_IF_ERROR(RunTurns(tests, progress, go_on, &runs));
      const uint64_t left = model.backend()->AvailableBytes();
      if (left < report->available_bytes) {
        report->device_bytes = std::max(report->device_bytes, report->available_bytes - left);
      }
      uint64_t planned = model.weights_bytes() + runs[0].scratch_bytes();
      for (const DepthRun& run : runs) {
        for (const char* test : {"decode", "prefill"}) run.AddRow(test, tests, report, &read_gb_s);
        planned += run.planned_bytes(tests);
      }
      report->plan_bytes = std::max(report->plan_bytes, planned);
    }
    // Puts the modes of a test side by side.
    std::stable_sort(report->rows.begin() + first_row, report->rows.end(),
                     [](const BenchRow& a, const BenchRow& b) { return a.test < b.test; });
  }
  report->read_gb_s = Quantile(read_gb_s, 0.5);
  return OkStatus();
}

}  // namespace duo
