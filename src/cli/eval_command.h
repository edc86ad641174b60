// Parts that the measures of `duo eval` share: their flags, the recipe that identifies a run, and where results go.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "duo/tokenizer.h"
#include "eval/result_log.h"
#include "eval/text_source.h"

namespace duo::cli {

struct EvalCommand {
  CommonOptions common;
  std::string out;               // directory; empty = nothing is kept
  std::string text = "builtin";  // TextSource
};

/// Adds --text, --out and the common flags.
void AddEvalOptions(CLI::App* verb, EvalCommand* command);

/// One choice of heads that is measured.
struct EvalMode {
  std::string name;  // "full", "duo"
  SessionOptions session;
};

/// A measure that is ready to run. The members are in the order of their lifetimes.
struct EvalRun {
  LoadedModel loaded;
  Tokenizer tokenizer;
  TextSource text;
  Json recipe;  // everything that decides the results
  ResultLog log;
  std::string out;

  /// "full", and "duo" when there is a pattern.
  std::vector<EvalMode> Modes() const;
  SessionOptions FullSession() const;
  /// Returns `result` with the recipe's members added, except those that it has already.
  Json Identified(Json result) const;
};

/// Opens model, tokenizer and text and, with --out, the log of earlier results. `kind` is the measure's name ("niah").
/// `options` are the measure's own options, which become part of the recipe. `n_tokens` is the length of the longest
/// sequence, which must fit the model's context; 0 = not known yet.
Result<EvalRun> BeginEval(const EvalCommand& command, const std::string& kind, const Json& options, int64_t n_tokens);

/// Adds the recipe and the command to `result` and prints it: JSON with --json, else `text`. With --out, also writes it
/// to OUT/<kind>.json and, where gnuplot is installed, its picture to OUT/<kind>.svg and .png.
Status FinishEval(const EvalCommand& command, const EvalRun& run, Json result, const std::string& text);

void AddEvalNiah(CLI::App* verb, VerbFunction* run);
void AddEvalPerplexity(CLI::App* verb, VerbFunction* run);
void AddEvalCertify(CLI::App* verb, VerbFunction* run);
void AddEvalLongBench(CLI::App* verb, VerbFunction* run);
void AddEvalRuler(CLI::App* verb, VerbFunction* run);

}  // namespace duo::cli
