#include "identify/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "base/atomic_file.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "duo/version.h"
#include "identify/saved_run.h"
#include "model/fingerprint.h"

namespace duo {
namespace {

constexpr size_t kMaxStateBytes = size_t{64} << 20;

// The files of an unfinished run. The log gets a line after every step. The state is written at the start, after every
// save_every steps and when the run stops, so the log may be ahead of it. The state has the size that the log had at
// its step, and resuming cuts the log to that size. At the end of the run the state is removed.
std::string StatePath(const std::string& dir) { return dir + "/state.json"; }
std::string LogPath(const std::string& dir) { return dir + "/log.jsonl"; }

// Removes the files that a killed run was writing. Only the holder of the directory's lock may call it.
void RemoveHalfWrittenStates(const std::string& dir) {
  std::error_code ignored;  // a file that cannot be removed does no harm
  for (const auto& entry : std::filesystem::directory_iterator(dir, ignored)) {
    if (entry.path().filename().string().starts_with("state.json.tmp")) std::filesystem::remove(entry, ignored);
  }
}

}  // namespace

bool HasUnfinishedRun(const std::string& dir) { return FileExists(StatePath(dir)); }

// Everything that the run depends on. It is also the pattern's config.json, so it has the keys of the published format.
Json Trainer::Facts() const {
  const ModelConfig& c = model_->config();
  const GateSchedule& s = options_.schedule;
  Json facts = {{"method", "optimize"},
                {"model", c.name},
                {"model_fingerprint", ModelFingerprint(*model_)},
                {"n_layers", c.n_layers},
                {"n_kv_heads", c.n_kv_heads},
                {"num_steps", s.n_steps},
                {"lr", s.lr},
                {"reg_weight", s.reg_weight},
                {"target_sparsity", s.target_sparsity ? Json(*s.target_sparsity) : Json()},
                {"initial_value", 1.0},
                {"batch_size", options_.accumulate},
                {"sink_size", options_.sink},
                {"recent_size", options_.recent},
                {"deploy_sink_size", options_.deploy_sink},
                {"deploy_recent_size", options_.deploy_recent},
                {"compute", ComputeTypeName(options_.compute)},
                {"duo_version", Version()}};
  facts.update(Json::parse(options_.recipe));  // made by this program, so it can be parsed
  return facts;
}

Result<Trainer> Trainer::Create(const Model& model, const TrainingTexts& texts, const TrainerOptions& options,
                                Start start) {
  const GateSchedule& s = options.schedule;
  if (s.n_steps < 1) return BadOption("n_steps", s.n_steps, "1 or more");
  if (!(s.lr > 0 && s.lr <= 1)) return BadOption("lr", fmt::format("{:f}", s.lr), "a number in (0, 1]");
  if (!(s.reg_weight >= 0 && s.reg_weight <= 1e6)) {
    return BadOption("reg_weight", fmt::format("{:f}", s.reg_weight), "a number in 0..1e6");
  }
  if (s.target_sparsity && !(*s.target_sparsity > 0 && *s.target_sparsity < 1 && s.reg_weight > 0)) {
    return BadOption("target_sparsity", fmt::format("{:f}", *s.target_sparsity),
                     "a number in (0, 1), beside a reg_weight above 0");
  }
  if (options.accumulate < 1 || options.accumulate > 4096) {
    return BadOption("accumulate", options.accumulate, "1..4096");
  }
  if (options.save_every < 1) return BadOption("save_every", options.save_every, "1 or more");
  if (start == Start::kResume && !HasUnfinishedRun(options.dir)) {
    return InvalidArgument("{} holds no unfinished run to resume", options.dir);
  }
  DUO_RETURN_IF_ERROR(MakeDirectories(options.dir));
  // Two runs in one directory would overwrite each other's state. So its files are checked under the lock.
  DUO_ASSIGN_OR_RETURN(DirectoryLock lock, DirectoryLock::Take(options.dir));
  if (start == Start::kFresh && HasUnfinishedRun(options.dir)) {
    // It may be hours of work, so a forgotten flag must not overwrite it.
    return InvalidArgument("{} holds an unfinished run: resume it, or remove {}", options.dir, StatePath(options.dir));
  }
  RemoveHalfWrittenStates(options.dir);
  DUO_ASSIGN_OR_RETURN(TeacherStudent streams, TeacherStudent::Create(model, {.sink = options.sink,
                                                                              .recent = options.recent,
                                                                              .max_tokens = texts.max_text_tokens(),
                                                                              .compute = options.compute,
                                                                              .memory_limit = options.memory_limit}));
  Trainer trainer(model, texts, options, std::move(streams), std::move(lock));
  if (start == Start::kResume) {
    DUO_RETURN_IF_ERROR(trainer.Load());
    DUO_RETURN_IF_ERROR(trainer.TruncateLog());
  } else {
    DUO_RETURN_IF_ERROR(CheckReplaceable(LogPath(options.dir)));
    DUO_RETURN_IF_ERROR(trainer.Save());  // a full disk is noticed now, not after an hour
  }
  return trainer;
}

Status Trainer::Save() const {
  Json state = SavedRunJson({optimizer_.state(), log_bytes_});
  state["facts"] = Facts();
  return WriteFileAtomic(StatePath(options_.dir), JsonText(state));
}

Status Trainer::Load() {
  const std::string path = StatePath(options_.dir);
  DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxStateBytes));
  DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  const auto facts = json.find("facts");
  if (facts == json.end() || !facts->is_object()) return Corrupt("{}: facts: missing", path);
  const std::string difference = JsonDifference(*facts, Facts());
  if (!difference.empty()) {
    return InvalidArgument("{}: the saved run has {}; resume a run with the options it began with", path, difference);
  }
  DUO_ASSIGN_OR_RETURN(SavedRun saved,
                       SavedRunOf(json, optimizer_.state().gates.size(), options_.schedule.n_steps, path));
  optimizer_ = GateOptimizer(options_.schedule, std::move(saved.state));
  log_bytes_ = saved.log_bytes;
  return OkStatus();
}

// Removes the lines of steps after the saved state, which would otherwise be in the log twice. A log may have lost
// lines in a crash of the machine; then it keeps its whole lines.
Status Trainer::TruncateLog() {
  const std::string path = LogPath(options_.dir);
  if (!FileExists(path)) {
    log_bytes_ = 0;
    return OkStatus();
  }
  std::error_code error;
  const auto bytes = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (!error && bytes < log_bytes_) {
    DUO_ASSIGN_OR_RETURN(const std::string log, ReadFile(path, log_bytes_));
    log_bytes_ = static_cast<int64_t>(log.rfind('\n') + 1);
  }
  if (!error && bytes > log_bytes_) std::filesystem::resize_file(path, log_bytes_, error);
  if (error) return IoError("{}: cannot be shortened: {}", path, error.message());
  return OkStatus();
}

Status Trainer::AppendLog(const TrainerStep& s) {
  const std::string path = LogPath(options_.dir);
  const Json line = {{"step", s.step},       {"tokens", s.n_tokens},       {"distill_loss", s.distill},
                     {"reg_loss", s.reg},    {"reg_weight", s.reg_weight}, {"lr", s.lr},
                     {"seconds", s.seconds}, {"gflop_s", s.gflop_s},       {"gates", *s.gates}};
  const std::string text = JsonText(line) + "\n";
  // A log of size 0 is written anew, so that lines of an earlier run do not stay before it.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), log_bytes_ == 0 ? "wb" : "ab"),
                                                             std::fclose);
  if (!file || std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() || std::fflush(file.get()) != 0) {
    return IoError("{}: cannot be written: {}", path, std::strerror(errno));
  }
  log_bytes_ += std::ssize(text);
  return OkStatus();
}

Status Trainer::SavePattern() const {
  const ModelConfig& c = model_->config();
  HeadPattern pattern;
  pattern.n_layers = c.n_layers;
  pattern.n_kv_heads = c.n_kv_heads;
  pattern.gates = optimizer_.state().gates;
  pattern.sink = options_.deploy_sink;
  pattern.recent = options_.deploy_recent;
  // The published format's config.json may have any keys, so it also says how the pattern was made.
  Json config = Facts();
  config["steps_done"] = step();
  config["final_reg_weight"] = optimizer_.penalty();
  config["backend"] = DescribeBackend(*model_->backend());  // other instruction sets round differently
  pattern.config_json = JsonText(config, 1);
  return SaveHeadPattern(pattern, options_.dir);
}

Result<TrainerStep> Trainer::OneStep(const GoOn& go_on) {
  const auto begin = Clock::now();
  const GateState& state = optimizer_.state();
  TrainerStep out;
  out.reg = optimizer_.mean_gate();
  out.reg_weight = optimizer_.penalty();
  out.lr = LearningRate(options_.schedule, state.step);
  std::vector<double> gradients(state.gates.size(), 0.0);
  double flop = 0;
  const double share = 1.0 / options_.accumulate;  // losses and gradients are means over the texts of a step
  for (int i = 0; i < options_.accumulate; ++i) {
    // The index alone decides the text, so a resumed run sees the texts that an unbroken one sees.
    const auto index =
        static_cast<uint64_t>(state.step) * static_cast<uint64_t>(options_.accumulate) + static_cast<uint64_t>(i);
    DUO_ASSIGN_OR_RETURN(const TrainingText text, texts_->Make(index));
    DUO_ASSIGN_OR_RETURN(const TwoStreamLoss loss, streams_.Loss(text.ids, text.labels, state.gates, go_on));
    const auto n = std::ssize(text.ids);
    out.n_tokens += n;
    out.distill += share * loss.distill;
    flop += TeacherStudent::Flops(model_->config(), {.sink = options_.sink, .recent = options_.recent}, n);
    for (size_t g = 0; g < gradients.size(); ++g) gradients[g] += share * loss.gate_gradients[g];
  }
  optimizer_.Step(gradients);
  out.step = state.step;
  out.gates = &state.gates;
  out.seconds = SecondsSince(begin);
  out.gflop_s = flop / out.seconds * 1e-9;
  return out;
}

Status Trainer::Run(const StepCallback& after_step, const GoOn& go_on) {
  Status status = RunSteps(after_step, go_on);
  if (!status.ok()) {
    // Saves the steps so far after any error, if that is still possible. Errors of the run are returned before errors
    // of saving, but a cancellation is returned only if saving succeeds.
    const Status saved = Save();
    // Before the first step there is no new pattern, and an older one may exist.
    const Status pattern = step() > 0 ? SavePattern() : OkStatus();
    if (status.code() != StatusCode::kCancelled) return status;
    DUO_RETURN_IF_ERROR(saved);
    DUO_RETURN_IF_ERROR(pattern);
    return status;
  }
  // The state goes last: until then, a crash leaves a run that can be resumed.
  if (std::remove(StatePath(options_.dir).c_str()) != 0 && errno != ENOENT) {
    return IoError("{}: cannot be removed: {}", StatePath(options_.dir), std::strerror(errno));
  }
  return OkStatus();
}

Status Trainer::RunSteps(const StepCallback& after_step, const GoOn& go_on) {
  while (step() < options_.schedule.n_steps) {
    DUO_ASSIGN_OR_RETURN(const TrainerStep done, OneStep(go_on));
    DUO_RETURN_IF_ERROR(AppendLog(done));
    const bool stop = after_step && !after_step(done);
    if (stop && step() < options_.schedule.n_steps) return Cancelled();  // after the last step there is nothing to stop
    if (step() % options_.save_every == 0) DUO_RETURN_IF_ERROR(Save());
  }
  return SavePattern();
}

}  // namespace duo
