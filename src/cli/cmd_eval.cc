// duo eval: measures what a choice of heads costs, on the code path that serves requests.
#include <CLI/App.hpp>

#include "cli/eval_command.h"

namespace duo::cli {

void AddEval(CLI::App* app, VerbFunction* run) {
  CLI::App* verb =
      app->add_subcommand("eval", "Measure quality: needles, perplexity, RULER, LongBench, a certificate.");
  verb->require_subcommand(1);
  verb->footer(
      "Example:\n"
      "  duo eval niah --model demo --pattern demo --sparsity 0.5 --lengths 1k,4k --preset passkey\n"
      "`duo eval niah --help` lists the flags of niah.");
  AddEvalNiah(verb, run);
  AddEvalPerplexity(verb, run);
  AddEvalRuler(verb, run);
  AddEvalLongBench(verb, run);
  AddEvalCertify(verb, run);
}

}  // namespace duo::cli
