// duo identify probe: computes the loss and the gate gradients of given tokens, for checking.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/identify_options.h"
#include "cli/json_output.h"
#include "cli/positions.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "identify/gate_optimizer.h"
#include "identify/teacher_student.h"

namespace duo::cli {
namespace {

struct ProbeCommand {
  CommonOptions common;
  std::string ids_file;
  std::string labels;
  double reg = GateSchedule().reg_weight;
};

std::string ToText(const TwoStreamLoss& loss, double reg, double reg_weight, const ModelConfig& c) {
  std::string text = fmt::format("distillation loss {:.6g}, mean gate {:.6g}, loss {:.6g}\n", loss.distill, reg,
                                 loss.distill + reg_weight * reg);
  for (int layer = 0; layer < c.n_layers; ++layer) {
    text += fmt::format("layer {:3}", layer);
    for (int head = 0; head < c.n_kv_heads; ++head) {
      text += fmt::format("  {:+.3e}", loss.gate_gradients[layer * c.n_kv_heads + head]);
    }
    text += "\n";
  }
  return text;
}

Status RunProbe(const ProbeCommand& command) {
  DUO_RETURN_IF_ERROR(CheckIdentifyCompute(command.common));
  DUO_ASSIGN_OR_RETURN(const std::string dir, ResolveModelDir(command.common.model));
  DUO_ASSIGN_OR_RETURN(const std::optional<HeadPattern> pattern, LoadPattern(command.common));
  DUO_ASSIGN_OR_RETURN(const BackendPtr backend, MakeBackend(command.common));
  DUO_ASSIGN_OR_RETURN(const Model model, Model::Open(dir, backend.get()));
  const ModelConfig& c = model.config();
  NoteModel(c);
  if (!pattern) return InvalidArgument("--pattern: is missing; probe takes its gates");
  const Status fits = CheckPatternShape(*pattern, c.n_layers, c.n_kv_heads);
  if (!fits.ok()) return fits.Annotate("--pattern " + command.common.pattern);
  const Result<std::vector<int32_t>> ids = ReadIdsFile(command.ids_file, c.vocab_size);
  if (!ids.ok()) return ids.status().Annotate("--ids");
  if (c.max_context > 0 && std::ssize(*ids) > c.max_context) {
    return InvalidArgument("--ids: {} tokens, at most {} for this model", ids->size(), c.max_context);
  }
  DUO_ASSIGN_OR_RETURN(const PositionRange labels, ParsePositions("--labels", command.labels, std::ssize(*ids)));
  std::vector<double> gates = pattern->gates;
  for (double& gate : gates) gate = std::clamp(gate, 0.0, 1.0);
  DUO_ASSIGN_OR_RETURN(const uint64_t memory_limit, MemoryLimit(command.common, model.weights_bytes()));
  DUO_ASSIGN_OR_RETURN(TeacherStudent streams,
                       TeacherStudent::Create(model, {.sink = command.common.sink.value_or(pattern->sink),
                                                      .recent = command.common.recent.value_or(pattern->recent),
                                                      .max_tokens = std::ssize(*ids),
                                                      .compute = command.common.compute,
                                                      .memory_limit = memory_limit}));
  DUO_ASSIGN_OR_RETURN(TwoStreamLoss loss,
                       streams.Loss(*ids, {labels.begin, labels.end}, gates, [] { return !Interrupted(); }));
  double reg = 0;
  const auto n = static_cast<double>(gates.size());
  for (size_t i = 0; i < gates.size(); ++i) {
    reg += gates[i] / n;
    loss.gate_gradients[i] += gates[i] > 0 ? command.reg / n : 0.0;
  }
  if (command.common.json) {
    return PrintJson(
        {{"distill_loss", loss.distill}, {"reg_loss", reg}, {"gate_grad", Rows(loss.gate_gradients, c.n_kv_heads)}});
  }
  return WriteOut(ToText(loss, reg, command.reg, c));
}

}  // namespace

void AddIdentifyProbe(CLI::App* verb, VerbFunction* run) {
  auto command = std::make_shared<ProbeCommand>();
  CLI::App* probe = verb->add_subcommand("probe", "Compute the loss and the gradient of every gate for given tokens.");
  AddText(probe, "--ids", &command->ids_file, "a file", "File with a JSON array of token ids.")
      ->type_name("FILE")
      ->required();
  AddText(probe, "--labels", &command->labels, "A:B",
          "Positions A to B whose hidden states are compared, both included.")
      ->type_name("A:B")
      ->required();
  AddReal(probe, "--reg", {0, 1e6}, &command->reg, "Weight of the mean gate in the loss.")
      ->default_str(fmt::format("{:g}", command->reg));
  AddCommonOptions(probe, &command->common);
  probe->footer(
      "Example:\n  duo identify probe --model demo --pattern demo --ids prompt.json --labels 900:999 --compute f32 "
      "--json");
  probe->callback([probe, command, run] {
    RefuseFlags(*probe, kServingFlags, "has no meaning here: every head is run both ways");
    RefuseFlags(*probe, {"--chunk", "--max-context", "--seed"}, "has no meaning here");
    *run = [command] { return RunProbe(*command); };
  });
}

}  // namespace duo::cli
