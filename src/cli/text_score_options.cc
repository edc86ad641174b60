#include "cli/text_score_options.h"

#include <CLI/App.hpp>
#include <algorithm>
#include <optional>

#include "base/error.h"
#include "cli/flags.h"

namespace duo::cli {

void AddTextScoreOptions(CLI::App* verb, TextScoreOptions* options) {
  const std::string own_group = verb->option_defaults()->get_group();
  verb->option_defaults()->group("Text");
  AddInt(verb, "--context", {2, int64_t{1} << 24}, &options->context, "Tokens of a window of the text.")
      ->default_str(std::to_string(options->context));
  AddInt(verb, "--stride", {1, int64_t{1} << 24}, &options->stride,
         "Tokens between windows. Every window after the first scores only its last N tokens (default: half of "
         "--context).");
  AddInt(verb, "--windows", {0, int64_t{1} << 30}, &options->n_windows,
         "Max number of windows; 0 takes the whole text.")
      ->default_str(std::to_string(options->n_windows));
  AddText(verb, "--full-logits", &options->full_logits, "a file",
          "Safetensors file of full attention's logits: written when it is missing, read when it exists.")
      ->type_name("FILE");
  verb->option_defaults()->group(own_group);
}

void AddAgainstOption(CLI::App* verb, TextScoreOptions* options) {
  const std::string own_group = verb->option_defaults()->get_group();
  verb->option_defaults()->group("Text");
  AddText(verb, "--against", &options->against, "a file",
          "Compare with the logits in FILE, which --full-logits of a run with other types or weights wrote.")
      ->type_name("FILE")
      ->excludes("--full-logits");
  verb->option_defaults()->group(own_group);
}

Json RecipeOf(const TextScoreOptions& options) {
  const WindowOptions windows = options.windows();
  Json recipe = {{"context", windows.context}, {"stride", windows.stride}, {"windows", windows.n_windows}};
  if (!options.against.empty()) recipe["against"] = options.against;
  return recipe;
}

Result<TextScores> MeasureText(EvalRun& run, const TextScoreOptions& options, const std::vector<SessionOptions>& modes,
                               const ProgressCallback& progress) {
  const WindowOptions window = options.windows();
  // The built-in text is made as long as the windows need.
  const int64_t n_builtin = window.context + window.stride * std::max<int64_t>(window.n_windows, 1);
  DUO_ASSIGN_OR_RETURN(const std::string text, run.text.Whole(n_builtin, run.tokenizer));
  const std::vector<int32_t> ids = run.tokenizer.Encode(text, SpecialTokens::kNone);
  DUO_ASSIGN_OR_RETURN(const std::vector<Window> windows, MakeWindows(ids, run.tokenizer.bos_id(), window));
  std::optional<FullLogits> saved;
  const bool is_reference = !options.against.empty();
  if (is_reference || !options.full_logits.empty()) {
    int64_t n_rows = 0;
    for (const Window& w : windows) n_rows += std::ssize(w.ids) - w.begin;
    Json recipe = RecipeOf(options);
    recipe.erase("against");
    recipe["text"] = run.recipe.at("text");
    if (!is_reference) {
      for (const char* key : {"model_fingerprint", "backend", "compute", "kv_type", "chunk"}) {
        recipe[key] = run.recipe.at(key);
      }
    }
    Result<FullLogits> opened = FullLogits::Open(is_reference ? options.against : options.full_logits, recipe, n_rows,
                                                 run.loaded.model.config().vocab_size,
                                                 is_reference ? FullLogitsUse::kReference : FullLogitsUse::kOwn);
    if (is_reference && opened.status().code() == StatusCode::kNotFound) {
      return NotFound("--against: {} does not exist; --full-logits FILE of another run writes one", options.against);
    }
    if (!opened.ok()) return opened.status().Annotate(is_reference ? "--against" : "--full-logits");
    saved = std::move(opened).value();
  }
  return ScoreText(run.loaded.model, windows, run.FullSession(), modes, saved ? &*saved : nullptr, &run.log, progress);
}

}  // namespace duo::cli
