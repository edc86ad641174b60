#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "backend/backend.h"
#include "base/error.h"
#include "base/finite.h"
#include "base/memory_info.h"
#include "base/parallel.h"
#include "base/progress_counter.h"

namespace duo {
namespace {

constexpr int64_t kRowBytes = int64_t{64} << 20;  // max bytes of one session's rows that are compared at a time
constexpr int64_t kFirstBucket = 128;
constexpr int64_t kMaxPosition = int64_t{1} << 30;

size_t ArgMax(std::span<const float> row) { return std::max_element(row.begin(), row.end()) - row.begin(); }

double LogSumExp(std::span<const float> row, double max) {
  double sum = 0;
  for (const float x : row) sum += std::exp(double{x} - max);
  return max + std::log(sum);
}

/// Converts a window's scores to its record in the log. AppendRecord converts them back.
Json ToRecord(const TextScores& scores) {
  Json modes = Json::array();
  for (const TokenScores& mode : scores.modes) {
    modes.push_back({{"nll", mode.nll}, {"kld", mode.kld}, {"top1", mode.top1}});
  }
  return {{"positions", scores.positions}, {"full_nll", scores.full_nll}, {"modes", std::move(modes)}};
}

Status AppendRecord(const Json& record, const std::string& where, TextScores* scores) {
  const auto numbers = [&](const Json& object, const char* key, auto* out) -> Status {
    const auto array = object.find(key);
    if (array == object.end() || !array->is_array()) return Corrupt("{}: {}: missing", where, key);
    for (const Json& x : *array) {
      if (!x.is_number() || !(std::fabs(x.get<double>()) < 1e9)) {
        return Corrupt("{}: {}: expected numbers", where, key);
      }
      out->push_back(x.get<typename std::remove_pointer_t<decltype(out)>::value_type>());
    }
    return OkStatus();
  };
  DUO_RETURN_IF_ERROR(numbers(record, "positions", &scores->positions));
  DUO_RETURN_IF_ERROR(numbers(record, "full_nll", &scores->full_nll));
  const size_t n = scores->positions.size();
  bool whole = scores->full_nll.size() == n;
  for (const int64_t pos : scores->positions) whole = whole && pos >= 1 && pos < kMaxPosition;
  const auto modes = record.find("modes");
  if (modes == record.end() || !modes->is_array() || modes->size() != scores->modes.size()) {
    return Corrupt("{}: modes: expected {}", where, scores->modes.size());
  }
  for (size_t m = 0; m < scores->modes.size(); ++m) {
    const Json& mode = (*modes)[m];
    if (!mode.is_object()) return Corrupt("{}: modes: expected objects", where);
    DUO_RETURN_IF_ERROR(numbers(mode, "nll", &scores->modes[m].nll));
    DUO_RETURN_IF_ERROR(numbers(mode, "kld", &scores->modes[m].kld));
    DUO_RETURN_IF_ERROR(numbers(mode, "top1", &scores->modes[m].top1));
    const TokenScores& of = scores->modes[m];
    whole = whole && of.nll.size() == n && of.kld.size() == n && of.top1.size() == n;
  }
  return whole ? OkStatus() : Corrupt("{}: its lists differ in length, or a position is out of range", where);
}

Status CheckFinite(const TextScores& scores, const std::string& where) {
  const auto is_finite = [](const std::vector<double>& values) {
    return std::all_of(values.begin(), values.end(), [](double x) { return std::isfinite(x); });
  };
  bool all = is_finite(scores.full_nll);
  for (const TokenScores& mode : scores.modes) all = all && is_finite(mode.nll) && is_finite(mode.kld);
  return all ? OkStatus() : Internal("{}: the model's logits are not finite", where);
}

/// Runs windows through all sessions side by side. Each Run begins with empty sessions, so the scores of a window do
/// not depend on other windows. The saved file has one row per scored token, in the order of the windows. next_saved_
/// is the next row to read. While the file is being written every window runs, also those in the log: the file needs
/// their rows.
class Scorer {
 public:
  Scorer(const Model& model, FullLogits* saved) : model_(model), saved_(saved) {
    const int64_t vocab = model.config().vocab_size;
    n_rows_ = std::clamp<int64_t>(kRowBytes / (vocab * static_cast<int64_t>(sizeof(float))), 16, 512);
  }

  /// All sessions exist at once, so the sum of their memory is checked against the limit of one.
  Status CheckMemory(const SessionOptions& full, std::span<const SessionOptions> modes, int64_t context) const {
    uint64_t needed = 0;
    const auto add = [&](const SessionOptions& options) -> Status {
      DUO_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(model_.config(), 0, options, *model_.backend()));
      needed += plan.TotalBytes(context);
      return OkStatus();
    };
    if (saved_ == nullptr || !saved_->is_complete()) DUO_RETURN_IF_ERROR(add(full));
    for (const SessionOptions& mode : modes) DUO_RETURN_IF_ERROR(add(mode));
    const uint64_t available =
        MemoryBudget(full.memory_limit, model_.backend()->AvailableBytes(), model_.mapped_bytes());
    if (needed <= available) return OkStatus();
    return ResourceExhausted(
        "{} choices of heads side by side need {}, but {} are available; use a shorter context or fewer choices",
        modes.size() + 1, FormatBytes(needed), FormatBytes(available));
  }

  Status Create(const SessionOptions& full, std::span<const SessionOptions> modes) {
    if (saved_ == nullptr || !saved_->is_complete()) {
      DUO_ASSIGN_OR_RETURN(full_, Session::Create(model_, full));
    }
    for (const SessionOptions& mode : modes) {
      DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model_, mode));
      modes_.push_back(std::move(session));
    }
    return OkStatus();
  }

  /// Skips n rows of the saved file.
  void SkipSaved(int64_t n) { next_saved_ += n; }

  /// `only_full`: the window's scores are known, but its rows are still needed for the file.
  Result<TextScores> Run(const Window& window, bool only_full, const ProgressCallback& progress) {
    TextScores scores;
    scores.modes.resize(only_full ? 0 : modes_.size());
    const auto n = std::ssize(window.ids);
    // The token at a position is predicted from the one before: rows [begin - 1, n - 1).
    const int64_t first = window.begin - 1;
    std::vector<Session*> sessions;
    if (full_) sessions.push_back(&*full_);
    for (size_t m = 0; m < scores.modes.size(); ++m) sessions.push_back(&modes_[m]);
    for (Session* session : sessions) {
      DUO_RETURN_IF_ERROR(session->Rewind(0));
      if (first == 0) continue;
      DUO_RETURN_IF_ERROR(session->Prefill(std::span(window.ids).first(first), progress));
    }
    std::vector<float> full_rows, rows;
    for (int64_t begin = first; begin < n - 1; begin += n_rows_) {
      if (progress && !progress({.stage = "perplexity"})) return Cancelled();
      const int64_t end = std::min(n - 1, begin + n_rows_);
      DUO_RETURN_IF_ERROR(FullRows(window, begin, end, &full_rows));
      for (int64_t at = begin; at < end; ++at) scores.positions.push_back(at + 1);
      for (size_t m = 0; m < scores.modes.size(); ++m) {
        DUO_RETURN_IF_ERROR(Rows(&modes_[m], window, begin, end, &rows));
        Compare(window, begin, end, full_rows, rows, m == 0 ? &scores.full_nll : nullptr, &scores.modes[m]);
      }
      if (scores.modes.empty() && !only_full) {
        Compare(window, begin, end, full_rows, full_rows, &scores.full_nll, nullptr);
      }
    }
    return scores;
  }

 private:
  static Status Rows(Session* session, const Window& window, int64_t begin, int64_t end, std::vector<float>* rows) {
    rows->clear();
    const auto ids = std::span(window.ids).subspan(begin, end - begin);
    return session->PrefillWithLogits(ids, begin, end, [rows](int64_t, std::span<const float> logits) {
      rows->insert(rows->end(), logits.begin(), logits.end());
      return OkStatus();
    });
  }

  Status FullRows(const Window& window, int64_t begin, int64_t end, std::vector<float>* rows) {
    if (full_) {
      DUO_RETURN_IF_ERROR(Rows(&*full_, window, begin, end, rows));
      const size_t vocab = model_.config().vocab_size;
      for (size_t at = 0; saved_ != nullptr && at < rows->size(); at += vocab) {
        DUO_RETURN_IF_ERROR(saved_->Append(std::span(*rows).subspan(at, vocab)));
      }
      return OkStatus();
    }
    rows->clear();
    for (int64_t at = begin; at < end; ++at) {
      const std::span<const float> row = saved_->row(next_saved_++);
      if (!AllFinite(row)) {
        return Corrupt("the saved full logits: row {} has a NaN or an infinity; remove the file to compute it again",
                       next_saved_ - 1);
      }
      rows->insert(rows->end(), row.begin(), row.end());
    }
    return OkStatus();
  }

  void Compare(const Window& window, int64_t begin, int64_t end, const std::vector<float>& full,
               const std::vector<float>& other, std::vector<double>* full_nll, TokenScores* out) const {
    const size_t vocab = model_.config().vocab_size;
    std::vector<RowScore> scores(end - begin);
    ParallelFor(model_.backend()->n_threads(), end - begin, [&](int64_t i, int) {
      const size_t at = i * vocab;
      scores[i] = CompareRows(std::span(full).subspan(at, vocab), std::span(other).subspan(at, vocab),
                              window.ids[begin + i + 1]);
    });
    for (const RowScore& score : scores) {
      if (full_nll != nullptr) full_nll->push_back(score.full_nll);
      if (out == nullptr) continue;
      out->nll.push_back(score.nll);
      out->kld.push_back(score.kld);
      out->top1.push_back(score.top1);
    }
  }

  const Model& model_;
  FullLogits* saved_;
  std::optional<Session> full_;
  std::vector<Session> modes_;
  int64_t n_rows_;
  int64_t next_saved_ = 0;
};

}  // namespace

Result<std::vector<Window>> MakeWindows(std::span<const int32_t> ids, int32_t bos_id, const WindowOptions& options) {
  if (options.context < 2) return BadOption("context", options.context, "2 or more tokens");
  if (options.stride < 1 || options.stride >= options.context) {
    return BadOption("stride", options.stride, fmt::format("1..{} tokens", options.context - 1));
  }
  const int64_t n_bos = bos_id >= 0 ? 1 : 0, n_text = options.context - n_bos;
  const auto n = std::ssize(ids);
  if (n < n_text) {
    return InvalidArgument("the text has {} tokens, but one window of {} needs {}", n, options.context, n_text)
        .About("text");
  }
  std::vector<Window> windows;
  for (int64_t at = 0; at + n_text <= n; at += options.stride) {
    if (options.n_windows > 0 && std::ssize(windows) == options.n_windows) break;
    Window window;
    if (n_bos > 0) window.ids.push_back(bos_id);
    const auto text = ids.subspan(at, n_text);
    window.ids.insert(window.ids.end(), text.begin(), text.end());
    window.begin = at == 0 ? 1 : options.context - options.stride;
    windows.push_back(std::move(window));
  }
  return windows;
}

MeanError MeanOf(std::span<const double> values) {
  MeanError out;
  if (values.empty()) return out;
  const auto n = static_cast<double>(values.size());
  for (const double x : values) out.mean += x;
  out.mean /= n;
  double squares = 0;
  for (const double x : values) squares += (x - out.mean) * (x - out.mean);
  if (values.size() > 1) out.error = std::sqrt(squares / (n - 1) / n);
  return out;
}

RowScore CompareRows(std::span<const float> full, std::span<const float> other, int32_t id) {
  const size_t best_full = ArgMax(full), best_other = ArgMax(other);
  const double sum_full = LogSumExp(full, double{full[best_full]});
  const double sum_other = LogSumExp(other, double{other[best_other]});
  RowScore score;
  score.full_nll = sum_full - double{full[id]};
  score.nll = sum_other - double{other[id]};
  for (size_t i = 0; i < full.size(); ++i) {
    const double log_p = double{full[i]} - sum_full, log_q = double{other[i]} - sum_other;
    score.kld += std::exp(log_p) * (log_p - log_q);
  }
  score.kld = std::max(score.kld, 0.0);  // the exact value is never negative, but rounding can make it so
  score.top1 = best_full == best_other ? 1 : 0;
  return score;
}

Result<TextScores> ScoreText(const Model& model, const std::vector<Window>& windows, const SessionOptions& full,
                             std::span<const SessionOptions> modes, FullLogits* saved, ResultLog* log,
                             const ProgressCallback& progress) {
  Scorer scorer(model, saved);
  int64_t context = 0;
  for (const Window& window : windows) context = std::max(context, std::ssize(window.ids));
  DUO_RETURN_IF_ERROR(scorer.CheckMemory(full, modes, context));
  DUO_RETURN_IF_ERROR(scorer.Create(full, modes));
  TextScores all;
  all.modes.resize(modes.size());
  const bool writes = saved != nullptr && !saved->is_complete();
  ProgressCounter counter(progress, "perplexity", "windows", std::ssize(windows));
  for (size_t i = 0; i < windows.size(); ++i) {
    const std::string key = fmt::format("window/{}", i);
    const Json* record = log->Find(key);
    if (record == nullptr || writes) {
      DUO_ASSIGN_OR_RETURN(const TextScores scores, scorer.Run(windows[i], record != nullptr, counter.Callback()));
      if (record == nullptr) {
        DUO_RETURN_IF_ERROR(CheckFinite(scores, key));
        DUO_RETURN_IF_ERROR(log->Append(key, ToRecord(scores)));
        record = log->Find(key);
      }
    } else {
      scorer.SkipSaved(std::ssize(windows[i].ids) - windows[i].begin);
    }
    DUO_RETURN_IF_ERROR(AppendRecord(*record, key, &all));
    DUO_RETURN_IF_ERROR(counter.Add(1));
  }
  if (writes) DUO_RETURN_IF_ERROR(saved->Finish());
  return all;
}

std::vector<PositionBucket> BucketsOf(const TextScores& scores, size_t mode) {
  std::vector<PositionBucket> buckets;
  const TokenScores& of = scores.modes[mode];
  for (size_t i = 0; i < scores.positions.size(); ++i) {
    size_t index = 0;
    while (scores.positions[i] >= kFirstBucket << index) ++index;
    while (buckets.size() <= index) {
      const size_t b = buckets.size();
      buckets.push_back({.begin = b == 0 ? 0 : kFirstBucket << (b - 1), .end = kFirstBucket << b});
    }
    PositionBucket& bucket = buckets[index];
    ++bucket.n;
    bucket.full_nll += scores.full_nll[i];
    bucket.nll += of.nll[i];
    bucket.kld += of.kld[i];
    bucket.top1 += of.top1[i];
  }
  std::erase_if(buckets, [](const PositionBucket& b) { return b.n == 0; });
  for (PositionBucket& b : buckets) {
    const auto n = static_cast<double>(b.n);
    b.full_nll /= n, b.nll /= n, b.kld /= n, b.top1 /= n;
  }
  return buckets;
}

}  // namespace duo
