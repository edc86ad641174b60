// A run that learns gates: texts, steps, saved states, a log. `duo identify --method optimize` is this class.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/directory_lock.h"
#include "base/json.h"
#include "duo/head_pattern.h"
#include "duo/model.h"
#include "duo/result.h"
#include "identify/gate_optimizer.h"
#include "identify/passkey_data.h"
#include "identify/teacher_student.h"

namespace duo {

struct TrainerOptions {
  GateSchedule schedule;
  int accumulate = 1;  // texts per step, 1..4096
  int64_t sink = 128;  // of the student's streaming heads
  int64_t recent = 256;
  int64_t deploy_sink = 64;  // written to the pattern: what it is served with
  int64_t deploy_recent = 256;
  ComputeType compute = ComputeType::kBF16;
  uint64_t memory_limit = 0;  // bytes beside the weights; 0 = what the system has
  int64_t save_every = 25;    // steps between saved states; a killed run loses at most so many
  std::string dir;            // of the pattern, the log and, until the run is finished, the state
  std::string recipe =
      "{}";  // a JSON object: what else decides the run (data, seed): recorded, and compared when it is resumed
};

struct TrainerStep {
  int64_t step = 0;  // 1..n_steps: steps done
  int64_t n_tokens = 0;
  double distill = 0, reg = 0, reg_weight = 0, lr = 0;
  double seconds = 0;  // of this step
  double gflop_s = 0;
  const std::vector<double>* gates = nullptr;
};

/// Called after every step; false stops the run, which is then saved.
using StepCallback = std::function<bool(const TrainerStep&)>;

class Trainer {
 public:
  /// Borrows model and texts. A run in options.dir is continued when `resume` says so. kInvalidArgument: an unfinished
  /// run is there and was not to be resumed, or there is none, or it has another model, recipe or schedule (the
  /// sentence names what differs). kIo, kResourceExhausted; kUnsupported as TeacherStudent::Create.
  enum class Start : uint8_t { kFresh, kResume };
  static Result<Trainer> Create(const Model& model, const TrainingTexts& texts, const TrainerOptions& options,
                                Start start);

  /// To the end: writes the pattern and removes the state. kCancelled when the callback (or `go_on`, asked between
  /// layers) stopped it: the state of the last whole step is saved, with a pattern of the gates so far. After any other
  /// error too, as far as that can still be written.
  Status Run(const StepCallback& after_step, const GoOn& go_on = {});

  int64_t step() const { return optimizer_.state().step; }
  const GateOptimizer& optimizer() const { return optimizer_; }

 private:
  Trainer(const Model& model, const TrainingTexts& texts, TrainerOptions options, TeacherStudent streams,
          DirectoryLock lock)
      : lock_(std::move(lock)),
        model_(&model),
        texts_(&texts),
        options_(std::move(options)),
        streams_(std::move(streams)),
        optimizer_(options_.schedule,
                   static_cast<size_t>(model.config().n_layers) * static_cast<size_t>(model.config().n_kv_heads)) {}
  Result<TrainerStep> OneStep(const GoOn& go_on);
  Json Facts() const;
  Status Save() const;
  Status Load();
  Status SavePattern() const;
  Status AppendLog(const TrainerStep& step);
  Status TruncateLog();
  Status RunSteps(const StepCallback& after_step, const GoOn& go_on);

  DirectoryLock lock_;
  const Model* model_;
  const TrainingTexts* texts_;
  TrainerOptions options_;
  TeacherStudent streams_;
  GateOptimizer optimizer_;
  int64_t log_bytes_ = 0;  // of the log when it has just the steps so far
};

/// Whether `dir` holds a run that was not finished.
bool HasUnfinishedRun(const std::string& dir);

}  // namespace duo
