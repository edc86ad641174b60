#include "cli/needle_options.h"

#include <CLI/App.hpp>
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "cli/flags.h"
#include "cli/task_eval.h"

namespace duo::cli {
namespace {

constexpr const char* PresetName(NeedlePreset preset) {
  return preset == NeedlePreset::kClassic ? "classic" : preset == NeedlePreset::kPasskey ? "passkey" : "code";
}

}  // namespace

void AddNeedleOptions(CLI::App* verb, NeedleOptions* options) {
  const std::string own_group = verb->option_defaults()->get_group();
  verb->option_defaults()->group("Needles");
  AddNumbers(verb, "--lengths", IntRange{64, 1 << 30}, &options->lengths,
             "Lengths of prompts in tokens, separated by commas; 4k is 4096.");
  CLI::Option* depths = AddNumbers(verb, "--needle-depths", RealRange{0, 1}, &options->depths,
                                   "Needle depths, separated by commas: shares of the text before the needle, 0..1.");
  AcceptOldName(verb, "--depths", depths);
  CLI::Option* n_texts = AddInt(verb, "--n-texts", {1, 100000}, &options->n_seeds, "Texts per length and depth.")
                             ->default_str(std::to_string(options->n_seeds));
  AcceptOldName(verb, "--texts", n_texts);
  AddChoice(
      verb, "--preset",
      Choices<NeedlePreset>{
          {"passkey", NeedlePreset::kPasskey}, {"code", NeedlePreset::kCode}, {"classic", NeedlePreset::kClassic}},
      &options->preset,
      "Kind of needle. passkey: words to remember. code: a person's number. classic: the sandwich in San Francisco.")
      ->default_str(PresetName(options->preset));
  AddInt(verb, "--needles", {1, 20}, &options->n_needles, "Passkeys or codes in one text; each is asked for.")
      ->default_str(std::to_string(options->n_needles));
  AddTexts(verb, "--needle", &options->needles,
           "Sentence of your own to hide instead of the preset's; may be given several times.");
  AddText(verb, "--question", &options->question, "a question",
          "Question that asks for your --needle; it follows the text exactly as given.")
      ->type_name("TEXT");
  AddText(verb, "--keywords", &options->keywords, "words",
          "Words that the answer to --question must have, separated by commas.")
      ->type_name("A,B,..");
  AddInt(verb, "--max-tokens", {1, 4096}, &options->max_answer, "Max tokens of an answer.")
      ->default_str(std::to_string(options->max_answer));
  verb->option_defaults()->group(own_group);
}

Result<NeedleGrid> GridOf(const NeedleOptions& options) {
  NeedleGrid grid;
  grid.lengths = options.lengths.numbers;
  grid.depths = options.depths.numbers;
  const auto twice = [](auto values) {
    std::sort(values.begin(), values.end());
    return std::adjacent_find(values.begin(), values.end()) != values.end();
  };
  if (twice(grid.lengths)) return InvalidArgument("--lengths: one length is given twice");
  if (twice(grid.depths)) return InvalidArgument("--needle-depths: one depth is given twice");
  grid.n_seeds = options.n_seeds;
  const bool own = !options.needles.empty();
  if (own != !options.question.empty() || own != !options.keywords.empty()) {
    return InvalidArgument("--needle, --question and --keywords go together");
  }
  if (own && options.n_needles != 1) {
    return InvalidArgument("--needles: does not go with --needle, which may be given several times");
  }
  return grid;
}

Json RecipeOf(const NeedleOptions& options, const NeedleGrid& grid) {
  Json recipe = {{"lengths", grid.lengths},
                 {"depths", grid.depths},
                 {"n_seeds", grid.n_seeds},
                 {"n_needles", options.n_needles},
                 {"max_answer", options.max_answer}};
  if (options.needles.empty()) {
    recipe["preset"] = PresetName(options.preset);
  } else {
    recipe["needles"] = options.needles;
    recipe["question"] = options.question;
    recipe["keywords"] = options.keywords;
  }
  return recipe;
}

Result<NeedleOutcome> MeasureNeedles(EvalRun& run, const NeedleOptions& options, const NeedleGrid& grid,
                                     const std::string& name, const SessionOptions& session,
                                     const ProgressCallback& progress) {
  const int64_t longest = *std::max_element(grid.lengths.begin(), grid.lengths.end());
  const uint64_t first_seed = run.recipe.at("seed").get<uint64_t>();
  const NeedleSource source = [&](int index) -> Result<NeedleText> {
    const uint64_t seed = first_seed + index;
    NeedleText out;
    DUO_ASSIGN_OR_RETURN(out.text, run.text.Take(longest, seed, run.tokenizer));
    if (options.needles.empty()) {
      DUO_ASSIGN_OR_RETURN(out.task, MakeNeedleTask(options.preset, options.n_needles, seed));
    } else {
      out.task.needles = options.needles;
      out.task.questions = {{options.question, SplitNames(options.keywords)}};
    }
    out.task.max_answer = options.max_answer;
    return out;
  };
  DUO_ASSIGN_OR_RETURN(PromptRunner runner, PromptRunner::Create(run.loaded.model, run.tokenizer, session));
  DUO_ASSIGN_OR_RETURN(const std::vector<NeedleResult> results,
                       RunNeedles(name, grid, source, run.tokenizer, &runner, &run.log, progress));
  NeedleOutcome outcome;
  for (const NeedleResult& r : results) {
    outcome.mean += r.reply.score;
    outcome.kv_bytes = std::max(outcome.kv_bytes, r.reply.kv_bytes);
    outcome.n_prompt += r.reply.n_prompt;
    outcome.n_reused += r.reply.n_reused;
  }
  outcome.mean /= static_cast<double>(std::max<size_t>(results.size(), 1));
  outcome.table = NeedleTable(grid, results);
  return outcome;
}

}  // namespace duo::cli
