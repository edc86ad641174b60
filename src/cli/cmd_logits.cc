// duo logits: writes the model's raw output for given tokens, for checking and for other programs.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/atomic_file.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory_info.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/positions.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "duo/session.h"
#include "eval/logits_file.h"

namespace duo::cli {
namespace {

struct LogitsCommand {
  CommonOptions common;
  std::string ids_file;
  std::string positions = "last";
  std::string out;
};

/// Checks --out before the work. The output's directory must exist, and its name must not belong to something that is
/// not a file, because writing renames a new file over the old one.
Status CheckOutput(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  if (!IsDirectory(parent)) return IoError("--out: {} is not a directory", parent);
  return CheckReplaceable(path).Annotate("--out");
}

/// The whole result. It stays in memory, because the format's header needs its size and the file is renamed into place.
struct LogitRows {
  std::vector<float> logits;       // [n, vocab]
  std::vector<int64_t> positions;  // [n]
};

Status ReserveRows(const PositionRange& range, int64_t vocab, LogitRows* rows) {
  const uint64_t n = range.end - range.begin;
  const uint64_t bytes = n * vocab * sizeof(float);
  const uint64_t available = AvailableMemoryBytes();
  if (bytes > available) {
    return ResourceExhausted("--positions: {} rows of logits need {}, {} are available; ask for fewer at a time", n,
                             FormatBytes(bytes), FormatBytes(available));
  }
  rows->logits.reserve(bytes / sizeof(float));
  rows->positions.reserve(n);
  return OkStatus();
}

Status Run(const LogitsCommand& command) {
  DUO_RETURN_IF_ERROR(CheckOutput(command.out));
  DUO_ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(command.common));
  const int64_t vocab = loaded.model.config().vocab_size;
  Result<std::vector<int32_t>> ids = ReadIdsFile(command.ids_file, vocab);
  if (!ids.ok()) return ids.status().Annotate("--ids");
  DUO_ASSIGN_OR_RETURN(const PositionRange range, ParsePositions("--positions", command.positions, std::ssize(*ids)));
  LogitRows rows;
  DUO_RETURN_IF_ERROR(ReserveRows(range, vocab, &rows));
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(loaded.model, loaded.session));

  ids->resize(range.end);  // later tokens do not change logits before them
  const auto begin = Clock::now();
  ProgressBar bar(command.common.progress);
  const Status status = session.PrefillWithLogits(
      *ids, range.begin, range.end,
      [&rows](int64_t pos, std::span<const float> logits) {
        rows.positions.push_back(pos);
        rows.logits.insert(rows.logits.end(), logits.begin(), logits.end());
        return OkStatus();
      },
      bar.Callback());
  bar.Finish();
  if (status.code() == StatusCode::kCancelled) {
    return Stopped("stopped after {} of {} tokens; nothing was written", session.len(), ids->size());
  }
  DUO_RETURN_IF_ERROR(status);
  const double seconds = SecondsSince(begin);
  DUO_RETURN_IF_ERROR(WriteLogits(command.out, rows.logits, vocab, rows.positions).Annotate("--out"));
  if (!command.common.json) {
    Note(fmt::format("logits [{}, {}] of positions {}:{} are in {}", rows.positions.size(), vocab, range.begin,
                     range.end - 1, command.out));
    return OkStatus();
  }
  return PrintJson({{"out", command.out},
                    {"n_positions", rows.positions.size()},
                    {"vocab_size", vocab},
                    {"timings", {{"prefill_ms", seconds * 1e3}, {"prefill_tokens", ids->size()}}},
                    {"memory", MemoryJson(session)},
                    {"heads", HeadsJson(session.options())}});
}

}  // namespace

void AddLogits(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<LogitsCommand>();
  CLI::App* verb = app->add_subcommand("logits", "Write the logits of given tokens to a safetensors file.");
  AddText(verb, "--ids", &command->ids_file, "a file", "File with a JSON array of token ids.")
      ->type_name("FILE")
      ->required();
  AddText(verb, "--positions", &command->positions, "all, last or A:B",
          "Positions whose logits are written: all of them, the last one, or A to B, both included.")
      ->type_name("all|last|A:B")
      ->default_str(command->positions);
  AddText(verb, "--out", &command->out, "a file",
          "Safetensors file to write: logits [n, vocab] f32 and positions [n] i64.")
      ->type_name("PATH")
      ->required();
  AddCommonOptions(verb, &command->common);
  verb->footer(
      "Example:\n"
      "  duo logits --model demo --ids prompt.json --positions 0:99 --compute f32 --out logits.safetensors");
  verb->callback([command, run] { *run = [command] { return Run(*command); }; });
}

}  // namespace duo::cli
