// Needle in a haystack: hides sentences at chosen depths of texts of chosen lengths, and asks for them after the text.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "duo/progress.h"
#include "duo/result.h"
#include "duo/tokenizer.h"
#include "eval/scored_reply.h"

namespace duo {

struct NeedleQuestion {
  std::string text;                   // appended to the text unchanged
  std::vector<std::string> keywords;  // words that the answer must contain
};

/// The hidden sentences of a text and the questions about them.
struct NeedleTask {
  std::vector<std::string> needles;
  std::vector<NeedleQuestion> questions;
  bool one_line = false;    // the answer is a single line
  int64_t max_answer = 48;  // tokens
};

enum class NeedlePreset : uint8_t {
  kClassic,  // what to do in San Francisco: sentence and keywords of the original needle test
  kPasskey,  // "the third passkey to the vault": words (DuoAttention, arXiv:2410.10819 section 2.2)
  kCode,     // "the secret code of Anna": digits
};
/// `seed` determines the words and digits. kInvalidArgument when n_needles is not 1..20 (classic: 1).
Result<NeedleTask> MakeNeedleTask(NeedlePreset preset, int n_needles, uint64_t seed);

/// Share of the keywords that appear in `answer` as whole words, ignoring case. 1 without keywords.
double KeywordScore(std::string_view answer, const std::vector<std::string>& keywords);

struct NeedleGrid {
  std::vector<int64_t> lengths;  // tokens of a prompt, including text, needles and question
  std::vector<double> depths;    // [0, 1]: share of the text before the first needle
  int n_seeds = 1;               // texts per cell
};

/// One prompt of the grid and its result.
struct NeedleResult {
  int64_t length = 0;
  double depth = 0;
  int seed = 0;
  int question = 0;
  ScoredReply reply = {};
};

/// A text, long enough for the longest prompt of the grid, and its task.
struct NeedleText {
  std::string text;
  NeedleTask task;
};
using NeedleSource = std::function<Result<NeedleText>(int seed)>;

/// Runs every cell of the grid. The order lets prompts share as much as possible: for each text the deepest needle
/// comes first. Finished prompts are looked up in `log` and added to it, under keys that begin with `mode`. A needle
/// goes to the last end of a sentence at or before its place. With several needles, the others spread evenly over the
/// rest of the text. Returns kInvalidArgument when a length is too short for needles and question, or the text is too
/// short for a length. Other errors as PromptRunner.
Result<std::vector<NeedleResult>> RunNeedles(const std::string& mode, const NeedleGrid& grid,
                                             const NeedleSource& source, const Tokenizer& tokenizer,
                                             PromptRunner* runner, ResultLog* log,
                                             const ProgressCallback& progress = {});

/// Mean score of each cell, [n_depths][n_lengths].
std::vector<std::vector<double>> NeedleTable(const NeedleGrid& grid, const std::vector<NeedleResult>& results);

}  // namespace duo
