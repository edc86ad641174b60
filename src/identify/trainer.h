// A run that learns gates: its texts, steps, saved states and log. `duo identify --method optimize` uses this class.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/directory_lock.h"
#include "base/go_on.h"
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
  int64_t sink = 128;  // tokens, for the student's streaming heads
  int64_t recent = 256;
  int64_t deploy_sink = 64;  // written to the pattern, for serving
  int64_t deploy_recent = 256;
  ComputeType compute = ComputeType::kBF16;
  uint64_t memory_limit = 0;  // bytes in addition to the weights; 0 = what the system has
  int64_t save_every = 25;    // steps between saved states; a killed run loses at most this many
  std::string dir;            // holds the pattern, the log and, until the run is finished, the state
  /// A JSON object with everything else that the run depends on (data, seed). It is saved, and compared on resuming.
  std::string recipe = "{}";
};

/// The result of one step.
struct TrainerStep {
  int64_t step = 0;  // number of steps done, 1..n_steps
  int64_t n_tokens = 0;
  double distill = 0, reg = 0, reg_weight = 0, lr = 0;
  double seconds = 0;  // time of this step
  double gflop_s = 0;
  const std::vector<double>* gates = nullptr;
};

/// Called after every step. Returning false stops the run, which is then saved.
using StepCallback = std::function<bool(const TrainerStep&)>;

class Trainer {
 public:
  enum class Start : uint8_t { kFresh, kResume };
  /// Borrows model and texts. kFresh begins a run, kResume continues the unfinished run in options.dir.
  ///
  /// kInvalidArgument if an option is bad, and in two more cases. With kFresh: options.dir holds an unfinished run.
  /// With kResume: it holds none, or the run has another model, recipe or schedule (the message names the difference).
  /// kIo, kResourceExhausted. kUnsupported: see TeacherStudent::Create.
  static Result<Trainer> Create(const Model& model, const TrainingTexts& texts, const TrainerOptions& options,
                                Start start);

  /// Runs all steps, writes the pattern and removes the state. kCancelled if the callback stopped the run, or `go_on`,
  /// which is called between layers. Then the state of the last complete step is saved, with a pattern of the gates so
  /// far. After any other error both are saved too, if that is still possible.
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
        optimizer_(options_.schedule, int64_t{model.config().n_layers} * model.config().n_kv_heads) {}
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
  int64_t log_bytes_ = 0;  // size of the log with exactly the steps so far
};

/// Whether `dir` holds an unfinished run.
bool HasUnfinishedRun(const std::string& dir);

}  // namespace duo
