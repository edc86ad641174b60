// duo eval certify: measures what each sparsity loses and saves, and writes the chosen pattern with its certificate.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory_info.h"
#include "cli/eval_command.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/needle_options.h"
#include "cli/terminal.h"
#include "cli/text_score_options.h"
#include "eval/certificate.h"

namespace duo::cli {
namespace {

constexpr int kDecodeSteps = 15;

struct CertifyCommand {
  EvalCommand eval;
  NeedleOptions needle;
  TextScoreOptions text;
  CertifyBounds bounds;
  std::string sparsities = "0,0.25,0.5,0.625,0.75,0.875";
  std::optional<int64_t> depth;  // tokens in the cache when decoding is measured; default: the longest needle text
};

/// Median milliseconds per token after `depth` synthetic tokens.
Result<double> DecodeMs(const Model& model, SessionOptions options, int64_t depth) {
  options.max_context = depth + kDecodeSteps + 1;
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model, options));
  DUO_RETURN_IF_ERROR(session.FillSynthetic(depth, 1));
  DUO_RETURN_IF_ERROR(session.Decode(0));
  std::vector<double> seconds;
  for (int i = 0; i < kDecodeSteps; ++i) {
    const auto begin = Clock::now();
    DUO_RETURN_IF_ERROR(session.Decode(0));
    seconds.push_back(SecondsSince(begin));
  }
  std::nth_element(seconds.begin(), seconds.begin() + kDecodeSteps / 2, seconds.end());
  return 1e3 * seconds[kDecodeSteps / 2];
}

/// Takes the time from the log when it has one, so that a run that is continued prints the table of the first run.
Result<double> LoggedDecodeMs(EvalRun& run, const std::string& name, const SessionOptions& session, int64_t depth) {
  const std::string key = "decode/" + name;
  if (const Json* record = run.log.Find(key); record != nullptr) return JsonNumber(*record, "ms", key);
  DUO_ASSIGN_OR_RETURN(const double ms, DecodeMs(run.loaded.model, session, depth));
  DUO_RETURN_IF_ERROR(run.log.Append(key, {{"ms", ms}}));
  return ms;
}

/// Full attention needs the most memory: fails before the run, not after it.
Status CheckDepthFits(const EvalRun& run, int64_t depth) {
  SessionOptions full = run.FullSession();
  full.max_context = depth + kDecodeSteps + 1;
  DUO_ASSIGN_OR_RETURN(const Session session, Session::Create(run.loaded.model, full));
  return session.CheckFits(full.max_context);
}

struct Choices {
  std::vector<double> sparsities;
  std::vector<SessionOptions> sessions;
};

Result<Choices> MakeChoices(const CertifyCommand& command, const EvalRun& run) {
  Choices out;
  DUO_ASSIGN_OR_RETURN(out.sparsities, ParseNumbers("--sparsities", command.sparsities, 0, 1));
  std::sort(out.sparsities.begin(), out.sparsities.end());
  out.sparsities.erase(std::unique(out.sparsities.begin(), out.sparsities.end()), out.sparsities.end());
  for (const double sparsity : out.sparsities) {
    SessionOptions session = run.loaded.session;
    DUO_ASSIGN_OR_RETURN(session.heads, ChooseBySparsity(*run.loaded.pattern, sparsity));
    out.sessions.push_back(session);
  }
  return out;
}

std::string Table(const std::vector<CertifyRow>& rows, const CertifyRow& full, std::optional<size_t> chosen) {
  std::string text = "sparsity  heads  KL divergence         top-1   needles  perplexity        KV         ms/token\n";
  const auto line = [&](const std::string& name, const CertifyRow& r, bool is_chosen) {
    return fmt::format(
        "{:<8}  {:>5}  {:>8.2g} +- {:<7.1g} {:>6.2f} %  {:>7.3f}  {:>10.4f}  {:>8} {:>3.0f} %  {:>8.3f}{}\n", name,
        r.n_retrieval, r.kld, r.kld_error, 100 * r.top1, r.niah, r.perplexity, FormatBytes(r.kv_bytes),
        100 * static_cast<double>(r.kv_bytes) / static_cast<double>(std::max<uint64_t>(1, full.kv_bytes)), r.decode_ms,
        is_chosen ? "  <- chosen" : "");
  };
  text += line("full", full, false);
  for (size_t i = 0; i < rows.size(); ++i) {
    text += line(fmt::format("{:g}", rows[i].sparsity), rows[i], chosen && *chosen == i);
  }
  return text;
}

/// Writes the choice as a pattern of zeros and ones, with its certificate beside it.
Status WriteChosen(const EvalRun& run, const SessionOptions& session, const std::string& directory,
                   const Json& certificate) {
  HeadPattern pattern = ToPattern(session.heads, *run.loaded.pattern);
  pattern.sink = session.sink;
  pattern.recent = session.recent;
  DUO_RETURN_IF_ERROR(SaveHeadPattern(pattern, directory));
  return WriteFileAtomic(directory + "/" + kCertificateFile, JsonText(certificate, 1) + "\n");
}

Status Run(const CertifyCommand& command) {
  DUO_ASSIGN_OR_RETURN(const NeedleGrid grid, GridOf(command.needle));
  const int64_t longest = *std::max_element(grid.lengths.begin(), grid.lengths.end());
  const int64_t depth = command.depth.value_or(longest);
  Json recipe = {{"needle", RecipeOf(command.needle, grid)},
                 {"text", RecipeOf(command.text)},
                 {"sparsities", command.sparsities},
                 {"depth", depth}};
  if (command.eval.common.pattern.empty() || command.eval.common.pattern == "none") {
    return Status(StatusCode::kInvalidArgument, "--pattern: is missing; certify measures its gates");
  }
  EvalCommand eval = command.eval;
  eval.common.sparsity = 0;  // MakeChoices chooses heads at every sparsity of the list
  const int64_t longest_run =
      std::max({longest + command.needle.max_answer, command.text.context, depth + kDecodeSteps + 1});
  DUO_ASSIGN_OR_RETURN(EvalRun run, BeginEval(eval, "certify", recipe, longest_run));
  DUO_RETURN_IF_ERROR(CheckDepthFits(run, depth).Annotate("--depth"));
  DUO_ASSIGN_OR_RETURN(const Choices choices, MakeChoices(command, run));

  ProgressBar bar(ShowProgress(command.eval.common.progress));
  bar.SetLabel("text");
  DUO_ASSIGN_OR_RETURN(const TextScores scores, MeasureText(run, command.text, choices.sessions, bar.Callback()));
  std::vector<CertifyRow> rows;
  for (size_t i = 0; i <= choices.sessions.size(); ++i) {
    const bool is_full = i == choices.sessions.size();
    const SessionOptions session = is_full ? run.FullSession() : choices.sessions[i];
    const std::string name = is_full ? "full" : fmt::format("{:g}", choices.sparsities[i]);
    bar.SetLabel(is_full ? "full attention" : "sparsity " + name);
    DUO_ASSIGN_OR_RETURN(const NeedleOutcome needles,
                         MeasureNeedles(run, command.needle, grid, name, session, bar.Callback()));
    CertifyRow row{.sparsity = is_full ? 0 : choices.sparsities[i], .n_retrieval = session.heads.n_retrieval()};
    const std::vector<double>& nll = is_full ? scores.full_nll : scores.modes[i].nll;
    row.perplexity = std::exp(MeanOf(nll).mean);
    row.top1 = 1;
    if (!is_full) {
      const MeanError kld = MeanOf(scores.modes[i].kld), top1 = MeanOf(scores.modes[i].top1);
      row.kld = kld.mean, row.kld_error = kld.error, row.top1 = top1.mean, row.top1_error = top1.error;
    }
    row.niah = needles.mean;
    DUO_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(run.loaded.model.config(), 0, session, *run.loaded.backend));
    row.kv_bytes = plan.KvBytes(depth);
    DUO_ASSIGN_OR_RETURN(row.decode_ms, LoggedDecodeMs(run, name, session, depth));
    rows.push_back(row);
  }
  bar.Finish();
  const CertifyRow full = rows.back();
  rows.pop_back();

  const bool bounded = command.bounds.max_kld || command.bounds.min_niah;
  const std::optional<size_t> chosen = bounded ? ChooseRow(rows, command.bounds) : std::nullopt;
  Json result = {{"rows", Json::array()},
                 {"full_niah", full.niah},
                 {"full_perplexity", full.perplexity},
                 {"full_kv_bytes", full.kv_bytes},
                 {"full_decode_ms", full.decode_ms},
                 {"depth", depth},
                 {"n_scored", scores.full_nll.size()},
                 {"bounds",
                  {{"max_kld", command.bounds.max_kld ? Json(*command.bounds.max_kld) : Json()},
                   {"min_niah", command.bounds.min_niah ? Json(*command.bounds.min_niah) : Json()}}}};
  for (const CertifyRow& row : rows) result["rows"].push_back(ToJson(row));
  // The heads of the recipe are those of sparsity 0. The result has the chosen heads instead, or null.
  result["heads"] = result["heads_fingerprint"] = Json();
  if (bounded && !chosen) {
    Note("no sparsity of the list keeps the bounds: no pattern is written");
  } else if (chosen) {
    SessionOptions measured = choices.sessions[*chosen];
    measured.sink = std::max(measured.sink, measured.pinned_prefix);
    if (measured.prefill_recent == 0) measured.prefill_recent = measured.recent;
    result["chosen"] = ToJson(rows[*chosen]);
    result["heads"] = HeadsJson(measured);
    result["heads_fingerprint"] = HeadsFingerprint(measured.heads);
    if (!command.eval.out.empty()) {
      const std::string directory = command.eval.out + "/pattern";
      DUO_RETURN_IF_ERROR(WriteChosen(run, measured, directory, run.Identified(result)).Annotate("--out"));
      Note("the chosen pattern with its certificate is in " + directory);
    }
  }
  const std::string text = Table(rows, full, chosen);
  return FinishEval(command.eval, run, std::move(result), text);
}

}  // namespace

void AddEvalCertify(CLI::App* verb, VerbFunction* run) {
  auto command = std::make_shared<CertifyCommand>();
  CLI::App* certify = verb->add_subcommand(
      "certify", "Measure what each sparsity of a pattern costs and saves; choose the highest that keeps your bounds.");
  AddText(certify, "--sparsities", &command->sparsities, "numbers",
          "Shares of streaming heads to measure, separated by commas.")
      ->type_name("A,B,..")
      ->default_str(command->sparsities);
  AddReal(certify, "--max-kld", {0, 1e9}, &command->bounds.max_kld,
          "Choose a sparsity with at most this KL divergence, in nats per token.");
  AddReal(certify, "--min-niah", {0, 1}, &command->bounds.min_niah,
          "Choose a sparsity with at least this mean needle score.");
  AddInt(certify, "--depth", {1, int64_t{1} << 30}, &command->depth,
         "Tokens in the cache when memory and decoding are measured (default: the longest of --lengths).");
  AddTextScoreOptions(certify, &command->text);
  AddNeedleOptions(certify, &command->needle);
  AddEvalOptions(certify, &command->eval);
  certify->footer(
      "Example:\n"
      "  duo eval certify --model ~/models/Llama-3.1-8B --pattern learned --min-niah 0.95 --max-kld 0.02 \\\n"
      "      --lengths 4k,16k --out certified\n"
      "  duo generate --model ~/models/Llama-3.1-8B --pattern certified/pattern --prompt-file "
      "long.txt");
  certify->callback([certify, command, run] {
    for (const char* flag : {"--sparsity", "--threshold"}) {
      if (certify->count(flag) > 0) throw CLI::ValidationError(flag, "has no meaning here; --sparsities lists them");
    }
    *run = [command] { return Run(*command); };
  });
}

}  // namespace duo::cli
