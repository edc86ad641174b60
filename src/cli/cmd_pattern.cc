// duo pattern: shows, chooses from, compares and draws head patterns.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/terminal.h"
#include "duo/head_pattern.h"
#include "duo/head_report.h"

namespace duo::cli {
namespace {

constexpr double kDefaultDiffSparsity = 0.5;

struct PatternCommand {
  std::string dir, other_dir;
  std::string out;
  std::string title;
  std::optional<double> sparsity, threshold;
  bool exclusive_layers = false;
  bool curves = false;
  bool json = false;
};

Result<HeadPattern> Load(const std::string& dir) {
  if (dir != "demo") return LoadHeadPattern(dir);
  DUO_ASSIGN_OR_RETURN(const std::string model, FindDemoModel());
  return LoadHeadPattern(model + "/pattern");
}

/// The choice of --sparsity or --threshold; nothing when neither was given.
Result<std::optional<HeadChoice>> Choose(const PatternCommand& command, const HeadPattern& pattern) {
  if (command.threshold) return std::optional<HeadChoice>(ChooseByThreshold(pattern, *command.threshold));
  if (!command.sparsity) return std::optional<HeadChoice>();
  DUO_ASSIGN_OR_RETURN(HeadChoice choice, command.exclusive_layers ? ChooseLayersBySparsity(pattern, *command.sparsity)
                                                                   : ChooseBySparsity(pattern, *command.sparsity));
  return std::optional<HeadChoice>(std::move(choice));
}

/// [layers][kv_heads] of any per-head value.
template <typename Value>
Json Rows(int n_layers, int n_kv_heads, const Value& value) {
  Json rows = Json::array();
  for (int layer = 0; layer < n_layers; ++layer) {
    Json row = Json::array();
    for (int head = 0; head < n_kv_heads; ++head) row.push_back(value(layer, head));
    rows.push_back(std::move(row));
  }
  return rows;
}

Json ToJson(const HeadPattern& pattern, const std::optional<HeadChoice>& choice) {
  Json json = {{"n_layers", pattern.n_layers},
               {"n_kv_heads", pattern.n_kv_heads},
               {"sink", pattern.sink},
               {"recent", pattern.recent},
               {"gates", Rows(pattern.n_layers, pattern.n_kv_heads,
                              [&](int layer, int head) { return pattern.gate(layer, head); })}};
  if (choice) {
    json["sparsity"] = choice->sparsity();
    json["n_retrieval"] = choice->n_retrieval();
    json["retrieval"] = Rows(choice->n_layers, choice->n_kv_heads,
                             [&](int layer, int head) { return choice->is_retrieval(layer, head) ? 1 : 0; });
  }
  return json;
}

Status RunShow(const PatternCommand& command) {
  DUO_ASSIGN_OR_RETURN(const HeadPattern pattern, Load(command.dir));
  DUO_ASSIGN_OR_RETURN(const std::optional<HeadChoice> choice, Choose(command, pattern));
  if (command.json) return PrintJson(ToJson(pattern, choice));
  const HeatMapColor color = StdoutHasColour() ? HeatMapColor::kAnsi : HeatMapColor::kPlain;
  return WriteOut(fmt::format("{} layers x {} KV heads, sink {}, recent {}\n{}", pattern.n_layers, pattern.n_kv_heads,
                              pattern.sink, pattern.recent,
                              TerminalHeatMap(pattern, choice ? &*choice : nullptr, color)));
}

Status RunChoose(const PatternCommand& command) {
  DUO_ASSIGN_OR_RETURN(const HeadPattern pattern, Load(command.dir));
  DUO_ASSIGN_OR_RETURN(const std::optional<HeadChoice> choice, Choose(command, pattern));
  if (!choice) return InvalidArgument("--sparsity or --threshold is missing");
  const Status saved = SaveHeadPattern(ToPattern(*choice, pattern), command.out);
  if (!saved.ok()) return saved.Annotate("--out");
  if (command.json) {
    Json json = ToJson(pattern, choice);
    json["out"] = command.out;
    return PrintJson(json);
  }
  return WriteOut(fmt::format("{} of {} KV heads are retrieval heads (sparsity {:.3f}); written to {}\n",
                              choice->n_retrieval(), choice->retrieval.size(), choice->sparsity(), command.out));
}

Json ToJson(const PatternDiff& diff) {
  Json heads = Json::array();
  for (const HeadDifference& head : diff.differing) {
    heads.push_back({{"layer", head.layer},
                     {"kv_head", head.kv_head},
                     {"gate_a", head.gate_a},
                     {"gate_b", head.gate_b},
                     {"retrieval_in", head.retrieval_in_a ? "a" : "b"}});
  }
  return {{"mean_abs_difference", diff.mean_abs_difference},
          {"max_abs_difference", diff.max_abs_difference},
          {"rank_correlation", diff.rank_correlation ? Json(*diff.rank_correlation) : Json()},
          {"sparsity", diff.sparsity},
          {"n_both", diff.n_both},
          {"n_only_a", diff.n_only_a},
          {"n_only_b", diff.n_only_b},
          {"differing", std::move(heads)}};
}

std::string ToText(const PatternDiff& diff) {
  std::string text = fmt::format("gates differ by {:.4f} on average and {:.4f} at most; rank correlation {}\n",
                                 diff.mean_abs_difference, diff.max_abs_difference,
                                 diff.rank_correlation ? fmt::format("{:.4f}", *diff.rank_correlation) : "none");
  text += fmt::format("at sparsity {:g}: {} retrieval heads in both, {} only in A, {} only in B\n", diff.sparsity,
                      diff.n_both, diff.n_only_a, diff.n_only_b);
  for (const HeadDifference& head : diff.differing) {
    text += fmt::format("layer {:3}  kv head {:3}  A {:.4f}  B {:.4f}  retrieval in {}\n", head.layer, head.kv_head,
                        head.gate_a, head.gate_b, head.retrieval_in_a ? "A" : "B");
  }
  return text;
}

Status RunDiff(const PatternCommand& command) {
  DUO_ASSIGN_OR_RETURN(const HeadPattern a, Load(command.dir));
  DUO_ASSIGN_OR_RETURN(const HeadPattern b, Load(command.other_dir));
  DUO_ASSIGN_OR_RETURN(const PatternDiff diff, DiffPatterns(a, b, command.sparsity.value_or(kDefaultDiffSparsity)));
  return command.json ? PrintJson(ToJson(diff)) : WriteOut(ToText(diff));
}

Status RunPlot(const PatternCommand& command) {
  if (command.curves) {
    Status curves = WriteLossCurves(command.dir + "/log.jsonl", command.out, command.title);
    if (!curves.ok()) return curves;
    return command.json ? PrintJson({{"out", command.out}}) : WriteOut(fmt::format("written to {}\n", command.out));
  }
  DUO_ASSIGN_OR_RETURN(const HeadPattern pattern, Load(command.dir));
  DUO_ASSIGN_OR_RETURN(const std::optional<HeadChoice> choice, Choose(command, pattern));
  const Status drawn = WriteHeatMap(pattern, choice ? &*choice : nullptr, command.out, command.title);
  if (!drawn.ok()) return drawn.Annotate("--out");
  return command.json ? PrintJson({{"out", command.out}}) : WriteOut(fmt::format("written to {}\n", command.out));
}

void AddPatternDirectory(CLI::App* verb, const std::string& name, std::string* target) {
  AddText(verb, name, target, "a directory",
          "Directory with full_attention_heads.tsv and config.json; demo is the embedded model's.")
      ->type_name("DIR")
      ->required();
}

void AddChoiceFlags(CLI::App* verb, PatternCommand* command, const std::string& what) {
  CLI::Option* sparsity = AddReal(verb, "--sparsity", {0, 1}, &command->sparsity,
                                  what + " the retrieval heads so that this share of heads is streaming.");
  CLI::Option* threshold =
      AddReal(verb, "--threshold", {0, 1}, &command->threshold, what + " heads with a gate >= F as retrieval heads.");
  threshold->excludes(sparsity);
  verb->add_flag("--exclusive-layers", command->exclusive_layers,
                 "Choose whole layers: those with the largest sums of gates are retrieval layers; all heads of the "
                 "others stream.")
      ->needs(sparsity);
}

using PatternRun = Status (*)(const PatternCommand&);

/// Adds one of the four subcommands, without its own flags.
CLI::App* AddSubcommand(CLI::App* verb, const char* name, const char* help, const char* example,
                        PatternRun run_subcommand, const std::shared_ptr<PatternCommand>& command, VerbFunction* run) {
  CLI::App* subcommand = verb->add_subcommand(name, help);
  subcommand->footer(std::string("Example:\n  ") + example);
  AddJsonFlag(subcommand, &command->json);
  subcommand->callback(
      [command, run, run_subcommand] { *run = [command, run_subcommand] { return run_subcommand(*command); }; });
  return subcommand;
}

}  // namespace

void AddPattern(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<PatternCommand>();
  CLI::App* verb = app->add_subcommand("pattern", "Show, choose, compare and plot head patterns.");
  verb->require_subcommand(1);
  verb->footer("Example:\n  duo pattern show demo --sparsity 0.5\n`duo pattern show --help` lists the flags of show.");
  CLI::App* show = AddSubcommand(verb, "show", "Show a heat map of the gates in the terminal.",
                                 "duo pattern show demo --sparsity 0.5", RunShow, command, run);
  AddPatternDirectory(show, "DIR", &command->dir);
  AddChoiceFlags(show, command.get(), "Mark");

  CLI::App* choose = AddSubcommand(verb, "choose", "Write a pattern of 0 and 1 with the chosen heads.",
                                   "duo pattern choose demo --sparsity 0.75 --out chosen", RunChoose, command, run);
  AddPatternDirectory(choose, "DIR", &command->dir);
  AddChoiceFlags(choose, command.get(), "Choose");
  AddText(choose, "--out", &command->out, "a directory",
          "Directory of the pattern to write; it is made when it is missing.")
      ->type_name("PATH")
      ->required();

  CLI::App* diff = AddSubcommand(verb, "diff", "Show how two patterns of one model differ.",
                                 "duo pattern diff learned chosen", RunDiff, command, run);
  AddPatternDirectory(diff, "A", &command->dir);
  AddPatternDirectory(diff, "B", &command->other_dir);
  AddReal(diff, "--sparsity", {0, 1}, &command->sparsity, "Sparsity at which the heads of both patterns are chosen.")
      ->default_str(fmt::format("{:g}", kDefaultDiffSparsity));

  CLI::App* plot =
      AddSubcommand(verb, "plot", "Draw a heat map, or curves of a run, as an SVG or PNG file (needs gnuplot).",
                    "duo pattern plot demo --sparsity 0.5 --out heads.svg", RunPlot, command, run);
  AddPatternDirectory(plot, "DIR", &command->dir);
  AddChoiceFlags(plot, command.get(), "Mark");
  AddText(plot, "--out", &command->out, "a file", "File to write, named *.svg or *.png.")
      ->type_name("PATH")
      ->required();
  plot->add_flag("--curves", command->curves,
                 "Draw losses and gates over the steps of the run in DIR/log.jsonl, instead of the heat map.")
      ->excludes("--sparsity")
      ->excludes("--threshold");
  AddText(plot, "--title", &command->title, "", "Text above the picture.")->type_name("TEXT");
}

}  // namespace duo::cli
