// Perplexity of a text, and the distance of other choices of heads from full attention on it: KL divergence and
// agreement on the most likely token, by position.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "duo/model.h"
#include "duo/progress.h"
#include "duo/result.h"
#include "duo/session.h"
#include "eval/full_logits.h"
#include "eval/result_log.h"

namespace duo {

/// The usual sliding convention: windows of `context` tokens, each `stride` tokens after the previous one. The first
/// window is scored from its second token on, the others on their last `stride` tokens. Every token is thus scored
/// once.
struct WindowOptions {
  int64_t context = 2048;  // tokens of a window, including begin-of-text; >= 2
  int64_t stride = 1024;   // 1..context - 1
  int64_t n_windows = 0;   // max windows; 0 = the whole text
};

/// One window's tokens and the range of them that is scored.
struct Window {
  std::vector<int32_t> ids;
  int64_t begin = 0;  // first scored position, >= 1; the last is ids.size() - 1
};

/// `ids` are the tokens of a text without begin-of-text. Every window begins with bos_id if bos_id >= 0.
/// kInvalidArgument for options out of range, and for a text shorter than one window; the error states how many tokens
/// it must have.
Result<std::vector<Window>> MakeWindows(std::span<const int32_t> ids, int32_t bos_id, const WindowOptions& options);

struct MeanError {
  double mean = 0;
  double error = 0;  // standard error of the mean, 0 for fewer than two values
};
MeanError MeanOf(std::span<const double> values);

/// The scores of one choice of heads for every scored token, in order.
struct TokenScores {
  std::vector<double> nll;   // -log of the token's probability, in nats
  std::vector<double> kld;   // sum p log(p / q), where p is full attention's, in nats
  std::vector<double> top1;  // 1 when its most likely token is full attention's (ties: the lower id), else 0
};

struct TextScores {
  std::vector<int64_t> positions;  // within their windows
  std::vector<double> full_nll;
  std::vector<TokenScores> modes;
};

/// Scores full attention, with the settings of `full`, and every mode over all windows. Rows of logits are compared as
/// they are computed, so memory holds all sessions and some rows. A complete `saved` (may be null) is read instead of
/// running full attention; an incomplete one is written. Finished windows are looked up in `log` and added to it. Modes
/// with the same heads as full attention have a divergence of exactly 0. Errors as Session::Create and Prefill.
Result<TextScores> ScoreText(const Model& model, const std::vector<Window>& windows, const SessionOptions& full,
                             std::span<const SessionOptions> modes, FullLogits* saved, ResultLog* log,
                             const ProgressCallback& progress = {});

/// Scores by position, in ranges [begin, end) that double from 128 on.
struct PositionBucket {
  int64_t begin = 0, end = 0;
  int64_t n = 0;
  double full_nll = 0, nll = 0, kld = 0, top1 = 0;  // means
};
std::vector<PositionBucket> BucketsOf(const TextScores& scores, size_t mode);

/// The scores of one row of logits against full attention's. `id` is the token that followed.
struct RowScore {
  double full_nll = 0, nll = 0, kld = 0, top1 = 0;
};
RowScore CompareRows(std::span<const float> full, std::span<const float> other, int32_t id);

}  // namespace duo
