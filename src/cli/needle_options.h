// Flags of needle tests, which `duo eval niah` and `duo eval certify` share.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "cli/eval_command.h"
#include "cli/flags.h"
#include "eval/needle.h"

namespace duo::cli {

struct NeedleOptions {
  NumberList<int64_t> lengths{"1k,2k,4k,8k", {}};      // tokens
  NumberList<double> depths{"0,0.25,0.5,0.75,1", {}};  // shares of the text
  int n_seeds = 2;
  int n_needles = 1;
  NeedlePreset preset = NeedlePreset::kPasskey;
  std::vector<std::string> needles;  // the user's own, instead of a preset
  std::string question;
  std::string keywords;  // separated by commas
  int64_t max_answer = 48;
};

void AddNeedleOptions(CLI::App* verb, NeedleOptions* options);

/// Builds the grid of lengths and depths. kInvalidArgument names the flag of a bad number, or of a needle that comes
/// without a question or keywords.
Result<NeedleGrid> GridOf(const NeedleOptions& options);
/// The options that decide the scores.
Json RecipeOf(const NeedleOptions& options, const NeedleGrid& grid);

struct NeedleOutcome {
  double mean = 0;
  std::vector<std::vector<double>> table;  // [depths][lengths]
  uint64_t kv_bytes = 0;                   // of the prompt that takes the most
  int64_t n_prompt = 0;                    // tokens of all prompts
  int64_t n_reused = 0;                    // those of n_prompt that an earlier prompt had read
};
/// Runs the grid with one choice of heads. `name` distinguishes its results in the run's log.
Result<NeedleOutcome> MeasureNeedles(EvalRun& run, const NeedleOptions& options, const NeedleGrid& grid,
                                     const std::string& name, const SessionOptions& session,
                                     const ProgressCallback& progress);

}  // namespace duo::cli
