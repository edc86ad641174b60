// Needle in a haystack: sentences hidden at chosen depths of texts of chosen lengths, asked for behind the text.
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
  std::string text;                   // goes behind the text as it is
  std::vector<std::string> keywords;  // what the answer must have
};

/// What is hidden in a text and asked for.
struct NeedleTask {
  std::vector<std::string> needles;
  std::vector<NeedleQuestion> questions;
  bool one_line = false;    // the answer ends with its line
  int64_t max_answer = 48;  // tokens
};

enum class NeedlePreset : uint8_t {
  kClassic,  // what to do in San Francisco: the sentence and key words of the original needle test
  kPasskey,  // "the third passkey to the vault": words (DuoAttention, arXiv:2410.10819 section 2.2)
  kCode,     // "the secret code of Anna": digits
};
/// `seed` decides words and digits. kInvalidArgument when n_needles is not 1..20 (classic: 1).
Result<NeedleTask> MakeNeedleTask(NeedlePreset preset, int n_needles, uint64_t seed);

/// Share of the key words that stand in `answer` as whole words, whatever their case. 1 without key words.
double KeywordScore(std::string_view answer, const std::vector<std::string>& keywords);

struct NeedleGrid {
  std::vector<int64_t> lengths;  // tokens of a prompt: text, needles and question together
  std::vector<double> depths;    // [0, 1]: share of the text before the first needle
  int n_seeds = 1;               // texts per cell
};

/// One prompt of the grid and what came of it.
struct NeedleResult {
  int64_t length = 0;
  double depth = 0;
  int seed = 0;
  int question = 0;
  ScoredReply reply = {};
};

/// Text of at least n_tokens (as the counter of the caller's tokenizer has it), and the task for it.
struct NeedleText {
  std::string text;
  NeedleTask task;
};
using NeedleSource = std::function<Result<NeedleText>(int seed)>;

/// Every cell of the grid, in an order in which prompts share as much as they can: of one text the deepest needle comes
/// first. Finished prompts are looked up in `log` and added to it under keys that begin with `mode`. The needle goes to
/// the end of a sentence before its place. With several needles the others spread evenly over what is left.
/// kInvalidArgument: a length is too short for needle and question, or the text too short for it. Else as PromptRunner.
Result<std::vector<NeedleResult>> RunNeedles(const std::string& mode, const NeedleGrid& grid,
                                             const NeedleSource& source, const Tokenizer& tokenizer,
                                             PromptRunner* runner, ResultLog* log,
                                             const ProgressCallback& progress = {});

/// Mean scores, [n_depths][n_lengths] of the grid.
std::vector<std::vector<double>> NeedleTable(const NeedleGrid& grid, const std::vector<NeedleResult>& results);

}  // namespace duo
