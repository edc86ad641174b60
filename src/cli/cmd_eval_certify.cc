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
#include "base/error.h"
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
  NumberList<double> sparsities{"0,0.25,0.5,0.625,0.75,0.875", {}};
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

struct SparsityChoices {
  std::vector<double> sparsities;
  std::vector<SessionOptions> sessions;
};

Result<SparsityChoices> MakeChoices(const CertifyCommand& command, const EvalRun& run) {
  SparsityChoices out;
  out.sparsities = command.sparsities.numbers;
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

/// The rows of all sparsities, and full attention's.
struct CertifyTable {
  CertifyRow full;
  std::vector<CertifyRow> rows;  // by sparsity
  size_t n_scored = 0;           // tokens of the text
};

/// Fills in everything that is measured with these heads on needles and in the cache; `name` is that of the run's log.
Status MeasureHeads(EvalRun& run, const CertifyCommand& command, const NeedleGrid& grid, int64_t depth,
                    const std::string& name, const SessionOptions& session, const ProgressCallback& progress,
                    CertifyRow* row) {
  DUO_ASSIGN_OR_RETURN(const NeedleOutcome needles, MeasureNeedles(run, command.needle, grid, name, session, progress));
  row->n_retrieval = session.heads.n_retrieval();
  row->niah = needles.mean;
  DUO_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(run.loaded.model.config(), 0, session, *run.loaded.backend));
  row->kv_bytes = plan.KvBytes(depth);
  DUO_ASSIGN_OR_RETURN(row->decode_ms, LoggedDecodeMs(run, name, session, depth));
  return OkStatus();
}

Result<CertifyTable> MeasureTable(EvalRun& run, const CertifyCommand& command, const NeedleGrid& grid, int64_t depth,
                                  const SparsityChoices& choices) {
  ProgressBar bar(command.eval.common.progress);
  bar.SetLabel("text");
  DUO_ASSIGN_OR_RETURN(const TextScores scores, MeasureText(run, command.text, choices.sessions, bar.Callback()));
  CertifyTable table;
  table.n_scored = scores.full_nll.size();
  for (size_t i = 0; i < choices.sessions.size(); ++i) {
    const TokenScores& of = scores.modes[i];
    const MeanError kld = MeanOf(of.kld), top1 = MeanOf(of.top1);
    CertifyRow row{.sparsity = choices.sparsities[i]};
    row.perplexity = std::exp(MeanOf(of.nll).mean);
    row.kld = kld.mean, row.kld_error = kld.error, row.top1 = top1.mean, row.top1_error = top1.error;
    const std::string name = fmt::format("{:g}", row.sparsity);
    bar.SetLabel("sparsity " + name);
    DUO_RETURN_IF_ERROR(MeasureHeads(run, command, grid, depth, name, choices.sessions[i], bar.Callback(), &row));
    table.rows.push_back(row);
  }
  table.full.perplexity = std::exp(MeanOf(scores.full_nll).mean);
  table.full.top1 = 1;
  bar.SetLabel("full attention");
  DUO_RETURN_IF_ERROR(MeasureHeads(run, command, grid, depth, "full", run.FullSession(), bar.Callback(), &table.full));
  return table;
}

Json ToJson(const CertifyTable& table, const CertifyBounds& bounds, int64_t depth) {
  Json result = {{"rows", Json::array()},
                 {"full_niah", table.full.niah},
                 {"full_perplexity", table.full.perplexity},
                 {"full_kv_bytes", table.full.kv_bytes},
                 {"full_decode_ms", table.full.decode_ms},
                 {"depth", depth},
                 {"n_scored", table.n_scored},
                 {"bounds",
                  {{"max_kld", bounds.max_kld ? Json(*bounds.max_kld) : Json()},
                   {"min_niah", bounds.min_niah ? Json(*bounds.min_niah) : Json()}}}};
  for (const CertifyRow& row : table.rows) result["rows"].push_back(ToJson(row));
  // The heads of the recipe are those of sparsity 0. The result has the chosen heads instead, or null.
  result["heads"] = result["heads_fingerprint"] = Json();
  return result;
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

/// Adds the choice to the result and, with --out, writes its pattern.
Status AddChosen(const CertifyCommand& command, const EvalRun& run, const CertifyRow& row, SessionOptions session,
                 Json* result) {
  session.sink = std::max(session.sink, session.pinned_prefix);
  if (session.prefill_recent == 0) session.prefill_recent = session.recent;
  (*result)["chosen"] = ToJson(row);
  (*result)["heads"] = HeadsJson(session);
  (*result)["heads_fingerprint"] = HeadsFingerprint(session.heads);
  if (command.eval.out.empty()) return OkStatus();
  const std::string directory = command.eval.out + "/pattern";
  DUO_RETURN_IF_ERROR(WriteChosen(run, session, directory, run.Identified(*result)).Annotate("--out"));
  Note("the chosen pattern with its certificate is in " + directory);
  return OkStatus();
}

Status Run(const CertifyCommand& command) {
  DUO_ASSIGN_OR_RETURN(const NeedleGrid grid, GridOf(command.needle));
  const int64_t longest = *std::max_element(grid.lengths.begin(), grid.lengths.end());
  const int64_t depth = command.depth.value_or(longest);
  const Json recipe = {{"needle", RecipeOf(command.needle, grid)},
                       {"text", RecipeOf(command.text)},
                       {"sparsities", command.sparsities.text},
                       {"depth", depth}};
  if (command.eval.common.pattern.empty() || command.eval.common.pattern == "none") {
    return InvalidArgument("--pattern: is missing; certify measures its gates");
  }
  EvalCommand eval = command.eval;
  eval.common.sparsity = 0;  // MakeChoices chooses heads at every sparsity of the list
  const int64_t longest_run =
      std::max({longest + command.needle.max_answer, command.text.context, depth + kDecodeSteps + 1});
  DUO_ASSIGN_OR_RETURN(EvalRun run, BeginEval(eval, "certify", recipe, longest_run));
  DUO_RETURN_IF_ERROR(CheckDepthFits(run, depth).Annotate("--depth"));
  DUO_ASSIGN_OR_RETURN(const SparsityChoices choices, MakeChoices(command, run));
  DUO_ASSIGN_OR_RETURN(const CertifyTable table, MeasureTable(run, command, grid, depth, choices));

  const bool bounded = command.bounds.max_kld || command.bounds.min_niah;
  const std::optional<size_t> chosen = bounded ? ChooseRow(table.rows, command.bounds) : std::nullopt;
  Json result = ToJson(table, command.bounds, depth);
  if (bounded && !chosen) Note("no sparsity of the list keeps the bounds: no pattern is written");
  if (chosen) DUO_RETURN_IF_ERROR(AddChosen(command, run, table.rows[*chosen], choices.sessions[*chosen], &result));
  const std::string text = Table(table.rows, table.full, chosen);
  return FinishEval(command.eval, run, std::move(result), text);
}

}  // namespace

void AddEvalCertify(CLI::App* verb, VerbFunction* run) {
  auto command = std::make_shared<CertifyCommand>();
  CLI::App* certify = verb->add_subcommand(
      "certify", "Measure what each sparsity of a pattern costs and saves; choose the highest that keeps your bounds.");
  AddNumbers(certify, "--sparsities", RealRange{0, 1}, &command->sparsities,
             "Shares of streaming heads to measure, separated by commas.");
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
    RefuseFlags(*certify, {"--sparsity", "--threshold"}, "has no meaning here; --sparsities lists them");
    *run = [command] { return Run(*command); };
  });
}

}  // namespace duo::cli
