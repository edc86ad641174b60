// duo eval perplexity: measures a text's perplexity with full attention, and how far the split cache diverges from it.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/eval_command.h"
#include "cli/flags.h"
#include "cli/terminal.h"
#include "cli/text_score_options.h"

namespace duo::cli {
namespace {

struct PerplexityCommand {
  EvalCommand eval;
  TextScoreOptions text;
};

/// {"perplexity","nll","nll_error"}: `nll` is the mean of -log p, `nll_error` its standard error.
Json PerplexityJson(const std::vector<double>& nll) {
  const MeanError mean = MeanOf(nll);
  return {{"perplexity", std::exp(mean.mean)}, {"nll", mean.mean}, {"nll_error", mean.error}};
}

Json BucketsJson(const std::vector<PositionBucket>& buckets) {
  Json out = Json::array();
  for (const PositionBucket& b : buckets) {
    out.push_back({{"begin", b.begin},
                   {"end", b.end},
                   {"n", b.n},
                   {"full_nll", b.full_nll},
                   {"nll", b.nll},
                   {"kld", b.kld},
                   {"top1", b.top1}});
  }
  return out;
}

std::string ToText(const Json& result) {
  const auto line = [](const char* name, const Json& of) {
    const double nll = of.at("nll").get<double>(), error = of.at("nll_error").get<double>();
    return fmt::format("{:<6} perplexity {:.4f} +- {:.4f}\n", name, std::exp(nll), std::exp(nll) * error);
  };
  std::string text = fmt::format("{} tokens scored\n", FormatCount(result.at("n_scored").get<int64_t>()));
  text += line("full", result.at("full"));
  if (!result.contains("duo")) return text;
  const Json& duo = result.at("duo");
  text += line("duo", duo);
  text += fmt::format("KL divergence {:.3g} +- {:.2g} nats, same most likely token {:.2f} +- {:.2f} %\n\n",
                      duo.at("kld").get<double>(), duo.at("kld_error").get<double>(),
                      100 * duo.at("top1").get<double>(), 100 * duo.at("top1_error").get<double>());
  text += "    position       n   full nll    duo nll  divergence  agreement\n";
  for (const Json& b : result.at("buckets")) {
    text += fmt::format("{:>5}..{:<6} {:>6} {:>10.4f} {:>10.4f} {:>11.3g} {:>8.2f} %\n", b.at("begin").get<int64_t>(),
                        b.at("end").get<int64_t>() - 1, b.at("n").get<int64_t>(), b.at("full_nll").get<double>(),
                        b.at("nll").get<double>(), b.at("kld").get<double>(), 100 * b.at("top1").get<double>());
  }
  return text;
}

Status Run(const PerplexityCommand& command) {
  DUO_ASSIGN_OR_RETURN(EvalRun run,
                       BeginEval(command.eval, "perplexity", RecipeOf(command.text), command.text.context));
  std::vector<SessionOptions> modes;
  if (run.loaded.pattern || !command.text.against.empty()) modes.push_back(run.loaded.session);
  ProgressBar bar(command.eval.common.progress);
  DUO_ASSIGN_OR_RETURN(const TextScores scores, MeasureText(run, command.text, modes, bar.Callback()));
  bar.Finish();
  Json result = {{"n_scored", scores.full_nll.size()}, {"full", PerplexityJson(scores.full_nll)}};
  if (!modes.empty()) {
    const TokenScores& duo = scores.modes[0];
    const MeanError kld = MeanOf(duo.kld), top1 = MeanOf(duo.top1);
    result["duo"] = PerplexityJson(duo.nll);
    result["duo"].update(
        {{"kld", kld.mean}, {"kld_error", kld.error}, {"top1", top1.mean}, {"top1_error", top1.error}});
    result["buckets"] = BucketsJson(BucketsOf(scores, 0));
  } else {
    result["buckets"] = Json::array();
  }
  const std::string text = ToText(result);
  return FinishEval(command.eval, run, std::move(result), text);
}

}  // namespace

void AddEvalPerplexity(CLI::App* verb, VerbFunction* run) {
  auto command = std::make_shared<PerplexityCommand>();
  CLI::App* perplexity = verb->add_subcommand(
      "perplexity", "Measure perplexity of a text, and divergence from full attention by position.");
  AddTextScoreOptions(perplexity, &command->text);
  AddAgainstOption(perplexity, &command->text);
  AddEvalOptions(perplexity, &command->eval);
  perplexity->footer(
      "Example:\n"
      "  duo eval perplexity --model ~/models/Llama-3.1-8B --pattern learned --sparsity 0.5 --text book.txt \\\n"
      "      --context 16384 --windows 4\n"
      "These two show what int4 keys and values cost, against the same model without them:\n"
      "  duo eval perplexity --model demo --full-logits full.safetensors\n"
      "  duo eval perplexity --model demo --kv-type int4 --against full.safetensors");
  perplexity->callback([command, run] { *run = [command] { return Run(*command); }; });
}

}  // namespace duo::cli
