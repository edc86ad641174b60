// duo plan: shows where the memory goes and how much context fits, before anything is allocated.
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "base/memory_info.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/json_output.h"
#include "cli/shape_options.h"
#include "cli/terminal.h"

namespace duo::cli {
namespace {

struct PlanOptions {
  CommonOptions common;
  std::string config;  // a config.json instead of a model
};

/// The model that is planned for.
struct Shape {
  ModelConfig config;
  uint64_t weights_bytes = 0;
};

Result<Shape> LoadShape(const PlanOptions& options) {
  if (options.config.empty() && options.common.model.empty()) {
    return InvalidArgument("--model: is missing; plan takes a model, or --config FILE");
  }
  Shape shape;
  if (!options.config.empty()) {
    DUO_ASSIGN_OR_RETURN(shape.config, LoadModelConfig(options.config));
    if (options.common.weights != WeightType::kNative) shape.config.weights = options.common.weights;
    shape.weights_bytes = shape.config.WeightsBytes();
    return shape;
  }
  DUO_ASSIGN_OR_RETURN(const std::string dir, ResolveModelDir(options.common.model));
  DUO_ASSIGN_OR_RETURN(const BackendPtr host, CreateBackend({}));  // only the checkpoint's headers are read
  DUO_ASSIGN_OR_RETURN(const Model model, Model::Open(dir, host.get()));
  shape.config = model.config();
  shape.weights_bytes = model.weights_bytes();
  if (options.common.weights != WeightType::kNative) {  // nothing is quantised for a plan
    shape.config.weights = options.common.weights;
    shape.weights_bytes = shape.config.WeightsBytes();
  }
  return shape;
}

int64_t LargestContext(const MemoryPlan& plan, const ModelConfig& config, uint64_t memory) {
  const int64_t fits = plan.MaxContext(memory);
  return config.max_context > 0 ? std::min(fits, config.max_context) : fits;
}

Json PlanJson(const MemoryPlan& plan, int64_t max_context) {
  return {{"weights_bytes", plan.weights_bytes},       {"kv_bytes_per_token", plan.kv_bytes_per_token},
          {"kv_fixed_bytes", plan.kv_fixed_bytes},     {"kv_page_bytes", plan.kv_page_bytes},
          {"activation_bytes", plan.activation_bytes}, {"max_context_tokens", max_context}};
}

std::string PlanTable(const Shape& shape, const ShapeHeads& heads, const MemoryPlan& full, const MemoryPlan& duo,
                      uint64_t memory, const SessionOptions& session) {
  const ModelConfig& c = shape.config;
  std::string out =
      fmt::format("{}: {} layers x {} KV heads of dim {}, {:.2f} G parameters\n{}\n", c.name, c.n_layers, c.n_kv_heads,
                  c.head_dim, static_cast<double>(c.n_parameters()) / 1e9, heads.description);
  out += fmt::format("window: sink {}, recent {}; KV as {}; {} for everything\n\n", session.sink, session.recent,
                     KvTypeName(session.kv_type), FormatBytes(memory));
  const auto row = [&](const std::string& what, const std::string& a, const std::string& b) {
    out += fmt::format("{:<28}{:>18}{:>18}\n", what, a, b);
  };
  const auto bytes_row = [&](const std::string& what, uint64_t a, uint64_t b) {
    row(what, FormatBytes(a), FormatBytes(b));
  };
  const int64_t full_context = LargestContext(full, c, memory), duo_context = LargestContext(duo, c, memory);
  row("", "full attention", "duo");
  bytes_row("weights", full.weights_bytes, duo.weights_bytes);
  bytes_row("activations and scratch", full.activation_bytes, duo.activation_bytes);
  bytes_row("KV, fixed (streaming)", full.kv_fixed_bytes, duo.kv_fixed_bytes);
  if (full.kv_page_bytes > 0) bytes_row("KV, whole pages", full.kv_page_bytes, duo.kv_page_bytes);
  bytes_row("KV per token (retrieval)", full.kv_bytes_per_token, duo.kv_bytes_per_token);
  if (duo.snapshot_every > 0) {
    bytes_row(fmt::format("snapshot every {} tokens", duo.snapshot_every), full.snapshot_bytes_each,
              duo.snapshot_bytes_each);
  }
  row("largest context, tokens", FormatCount(full_context), FormatCount(duo_context));
  for (const int64_t n : {int64_t{8192}, int64_t{32768}, int64_t{131072}, int64_t{1048576}}) {
    if (c.max_context > 0 && n > c.max_context) break;
    bytes_row("all of it at " + FormatCount(n) + " tokens", full.TotalBytes(n), duo.TotalBytes(n));
  }
  out += "\n";
  if (full_context == 0 || duo_context == 0) {
    out += fmt::format("Without any context full attention needs {}, duo {}.\n", FormatBytes(full.TotalBytes(0)),
                       FormatBytes(duo.TotalBytes(0)));
  } else {
    out += fmt::format("{} holds {:.2f} times the context with duo.\n", FormatBytes(memory),
                       static_cast<double>(duo_context) / static_cast<double>(full_context));
  }
  if (c.trained_context > 0 && duo_context > c.trained_context) {
    out += fmt::format("This model was trained for {} tokens: beyond that, memory is not its limit.\n",
                       FormatCount(c.trained_context));
  }
  return out;
}

Status RunPlan(const PlanOptions& options) {
  DUO_ASSIGN_OR_RETURN(const BackendPtr backend, MakeBackend(options.common));
  DUO_ASSIGN_OR_RETURN(const Shape shape, LoadShape(options));
  DUO_ASSIGN_OR_RETURN(const ShapeHeads heads,
                       ChooseShapeHeads(options.common, shape.config, shape.config.n_layers, 0));
  NoteModel(shape.config);
  CommonOptions common = options.common;
  common.memory_bytes = 0;  // plan answers what fits into --memory; it refuses nothing
  DUO_ASSIGN_OR_RETURN(SessionOptions session, ResolveSession(common, heads.pattern, shape.weights_bytes));
  session.heads = heads.heads;
  DUO_ASSIGN_OR_RETURN(const MemoryPlan duo, PlanMemory(shape.config, shape.weights_bytes, session, *backend));
  SessionOptions full_session = session;
  full_session.heads = AllRetrieval(shape.config.n_layers, shape.config.n_kv_heads);
  DUO_ASSIGN_OR_RETURN(const MemoryPlan full, PlanMemory(shape.config, shape.weights_bytes, full_session, *backend));
  const uint64_t memory =
      options.common.memory_bytes != 0 ? options.common.memory_bytes : BackendAvailableBytes(*backend);
  if (!options.common.json) return WriteOut(PlanTable(shape, heads, full, duo, memory, session));
  Json json = PlanJson(duo, LargestContext(duo, shape.config, memory));
  json["full"] = PlanJson(full, LargestContext(full, shape.config, memory));
  return PrintJson(json);
}

}  // namespace

void AddPlan(CLI::App* app, VerbFunction* run) {
  CLI::App* verb = app->add_subcommand("plan", "Show where the memory goes and the largest context that fits.");
  auto options = std::make_shared<PlanOptions>();
  AddCommonOptions(verb, &options->common);
  AddConfigOption(verb, &options->config);
  verb->footer(
      "Without a pattern, a share --sparsity (default 0) of the heads streams, evenly spread.\n"
      "Example:\n"
      "  duo plan --config bench/configs/llama-3-8b.json --sparsity 0.5 --memory 24GiB");
  verb->callback([options, run] { *run = [options] { return RunPlan(*options); }; });
}

}  // namespace duo::cli
