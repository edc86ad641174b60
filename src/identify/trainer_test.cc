// Tests of runs that are stopped, killed and resumed, on a small random model with the embedded model's tokenizer.
#include "identify/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "base/data_for_test.h"
#include "base/file.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

using testing::HasSubstr;

class TrainerTest : public testing::Test {
 protected:
  TrainerTest() {
    data = {.n_passkeys = 2, .min_length = 100, .max_length = 160, .n_lengths = 4};
    texts = std::make_unique<TrainingTexts>(TrainingTexts::Builtin(tokenizer, data).value());
    options.schedule = {.n_steps = 12, .reg_weight = kAdaptedPenaltyBegin, .target_sparsity = 0.5};
    options.sink = 4, options.recent = 16, options.save_every = 5;
    options.recipe = R"({"seed":0})";
  }
  TrainerOptions In(const std::string& folder) const {
    TrainerOptions o = options;
    o.dir = dir.path() + "/" + folder;
    return o;
  }
  Result<Trainer> Create(const TrainerOptions& o, Trainer::Start start) {
    return Trainer::Create(model, *texts, o, start);
  }
  static StepCallback StopAfter(int64_t step) {
    return [step](const TrainerStep& s) { return s.step < step; };
  }
  static std::string Bytes(const TrainerOptions& o, const std::string& name) {
    return ReadFile(o.dir + "/" + name, 1 << 24).value();
  }
  // The lines of the log without times.
  static std::vector<Json> Steps(const TrainerOptions& o) {
    std::vector<Json> steps;
    std::string log = Bytes(o, "log.jsonl");
    for (size_t at = 0, end; (end = log.find('\n', at)) != std::string::npos; at = end + 1) {
      Json line = Json::parse(log.substr(at, end - at));
      line.erase("seconds");
      line.erase("gflop_s");
      steps.push_back(line);
    }
    return steps;
  }

  TempDir dir;
  BackendPtr backend = CreateBackend({.n_threads = 2}).value();
  Model model = Model::Open(SourceDir() + "/models/demo", backend.get()).value();
  Tokenizer tokenizer = Tokenizer::Open(SourceDir() + "/models/demo").value();
  PasskeyOptions data;
  std::unique_ptr<TrainingTexts> texts;
  TrainerOptions options;
};

TEST_F(TrainerTest, WritesPatternConfigAndLogAndRemovesItsState) {
  TrainerOptions o = In("a");
  o.deploy_recent = 123;
  Trainer trainer = Create(o, Trainer::Start::kFresh).value();
  EXPECT_TRUE(HasUnfinishedRun(o.dir));
  ASSERT_TRUE(trainer.Run({}).ok());
  EXPECT_FALSE(HasUnfinishedRun(o.dir));
  const HeadPattern pattern = LoadHeadPattern(o.dir).value();
  EXPECT_EQ(pattern.gates, trainer.optimizer().state().gates);
  EXPECT_EQ(pattern.sink, 64);
  EXPECT_EQ(pattern.recent, 123);
  const Json config = Json::parse(pattern.config_json);
  for (const char* key : {"model", "method", "num_steps", "lr", "reg_weight", "seed", "duo_version", "sink_size"}) {
    EXPECT_TRUE(config.contains(key)) << key;
  }
  const std::vector<Json> steps = Steps(o);
  ASSERT_EQ(steps.size(), 12u);
  EXPECT_EQ(steps[0].at("step"), 1);
  EXPECT_EQ(steps[11].at("gates").get<std::vector<double>>(), pattern.gates);
}

TEST_F(TrainerTest, AResumedRunIsTheSameBitForBit) {
  const TrainerOptions whole = In("whole"), parts = In("parts");
  ASSERT_TRUE(Create(whole, Trainer::Start::kFresh)->Run({}).ok());
  EXPECT_EQ(Create(parts, Trainer::Start::kFresh)->Run(StopAfter(3)).code(), StatusCode::kCancelled);
  EXPECT_TRUE(LoadHeadPattern(parts.dir).ok());  // the pattern of an unfinished run can be used
  EXPECT_EQ(Create(parts, Trainer::Start::kResume)->step(), 3);
  EXPECT_EQ(Create(parts, Trainer::Start::kResume)->Run(StopAfter(8)).code(), StatusCode::kCancelled);
  ASSERT_TRUE(Create(parts, Trainer::Start::kResume)->Run({}).ok());
  EXPECT_EQ(Bytes(whole, "full_attention_heads.tsv"), Bytes(parts, "full_attention_heads.tsv"));
  EXPECT_EQ(Steps(whole), Steps(parts));
}

// The log of a killed run is ahead of the saved state and may end in half a line.
TEST_F(TrainerTest, AKilledRunLosesAtMostTheStepsSinceItsLastState) {
  const TrainerOptions whole = In("whole"), killed = In("killed");
  ASSERT_TRUE(Create(whole, Trainer::Start::kFresh)->Run({}).ok());
  {
    Trainer trainer = Create(killed, Trainer::Start::kFresh).value();
    std::string state;
    EXPECT_EQ(trainer
                  .Run([&](const TrainerStep& s) {
                    if (s.step == 6) state = Bytes(killed, "state.json");
                    return s.step < 9;
                  })
                  .code(),
              StatusCode::kCancelled);
    ASSERT_TRUE(WriteFileAtomic(killed.dir + "/state.json", state).ok());
    const std::string log = Bytes(killed, "log.jsonl");
    ASSERT_TRUE(WriteFileAtomic(killed.dir + "/log.jsonl", log.substr(0, log.size() - 40)).ok());
  }
  Trainer trainer = Create(killed, Trainer::Start::kResume).value();
  EXPECT_EQ(trainer.step(), 5);
  ASSERT_TRUE(trainer.Run({}).ok());
  EXPECT_EQ(Bytes(whole, "full_attention_heads.tsv"), Bytes(killed, "full_attention_heads.tsv"));
  EXPECT_EQ(Steps(whole), Steps(killed));
}

TEST_F(TrainerTest, AFullDiskLosesNothing) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "SKIPPED: no /dev/full";
  const TrainerOptions o = In("a");
  const std::string log = o.dir + "/log.jsonl";
  const Status status = Create(o, Trainer::Start::kFresh)->Run([&](const TrainerStep& s) {
    if (s.step == 3) {
      std::filesystem::remove(log);
      std::filesystem::create_symlink("/dev/full", log);
    }
    return true;
  });
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_THAT(status.message(), HasSubstr("log.jsonl: cannot be written"));
  std::filesystem::remove(log);
  EXPECT_EQ(Create(o, Trainer::Start::kResume)->step(), 4);  // the step whose line could not be written is kept
}

TEST_F(TrainerTest, StopsBetweenLayersToo) {
  const TrainerOptions o = In("a");
  int asked = 0;
  int64_t step = 0;
  {
    Trainer trainer = Create(o, Trainer::Start::kFresh).value();
    EXPECT_EQ(trainer.Run({}, [&] { return ++asked < 20; }).code(), StatusCode::kCancelled);
    step = trainer.step();
  }
  EXPECT_GT(step, 0);
  EXPECT_EQ(step, Create(o, Trainer::Start::kResume)->step());
}

TEST_F(TrainerTest, AnotherRunsFolderIsLeftAlone) {
  const TrainerOptions o = In("a");
  EXPECT_THAT(Create(o, Trainer::Start::kResume).status().message(), HasSubstr("no unfinished run"));
  EXPECT_EQ(Create(o, Trainer::Start::kFresh)->Run(StopAfter(2)).code(), StatusCode::kCancelled);
  const std::string state = Bytes(o, "state.json");
  EXPECT_THAT(Create(o, Trainer::Start::kFresh).status().message(), HasSubstr("holds an unfinished run"));
  TrainerOptions other = o;
  other.schedule.lr = 0.01;
  EXPECT_THAT(Create(other, Trainer::Start::kResume).status().message(), HasSubstr("lr"));
  other = o;
  other.recipe = R"({"seed":1})";
  EXPECT_THAT(Create(other, Trainer::Start::kResume).status().message(), HasSubstr("seed 0, not 1"));
  EXPECT_EQ(Bytes(o, "state.json"), state);
}

TEST_F(TrainerTest, TwoRunsDoNotShareAFolder) {
  const TrainerOptions o = In("a");
  Trainer running = Create(o, Trainer::Start::kFresh).value();
  for (const Trainer::Start start : {Trainer::Start::kResume, Trainer::Start::kFresh}) {
    EXPECT_THAT(Create(o, start).status().message(), HasSubstr("another run is writing there"));
  }
  EXPECT_TRUE(running.Run({}).ok());
}

// Loss and gradients of a step over several texts are means over the texts.
TEST_F(TrainerTest, AccumulatesTheMeanOfItsTexts) {
  TrainerOptions o = In("a");
  o.accumulate = 2;
  o.schedule = {.n_steps = 2, .lr = 0.5, .reg_weight = 0.1};
  std::vector<double> gates, first;
  double distill = 0;
  Trainer trainer = Create(o, Trainer::Start::kFresh).value();
  ASSERT_TRUE(trainer
                  .Run([&](const TrainerStep& s) {
                    if (s.step == 1) gates = *s.gates, first = trainer.optimizer().state().first;
                    distill = s.distill;
                    return true;
                  })
                  .ok());
  TeacherStudent streams =
      TeacherStudent::Create(model, {.sink = o.sink, .recent = o.recent, .max_tokens = texts->max_text_tokens()})
          .value();
  double mean = 0;
  std::vector<double> gradients(gates.size(), 0.1 / static_cast<double>(gates.size()));
  for (const uint64_t index : {2, 3}) {  // the texts of step 2
    const TrainingText text = texts->Make(index).value();
    const TwoStreamLoss loss = streams.Loss(text.ids, text.labels, gates).value();
    mean += loss.distill / 2;
    for (size_t g = 0; g < gates.size(); ++g) gradients[g] += loss.gate_gradients[g] / 2;
  }
  EXPECT_GT(mean, 0);
  EXPECT_NEAR(distill, mean, 1e-9 * mean);
  for (size_t g = 0; g < gates.size(); ++g) {
    EXPECT_NEAR(trainer.optimizer().state().first[g], 0.9 * first[g] + 0.1 * gradients[g], 1e-9) << g;
  }
}

TEST_F(TrainerTest, ARunIsNotResumedWithAnotherModel) {
  const TrainerOptions o = In("a");
  EXPECT_EQ(Create(o, Trainer::Start::kFresh)->Run(StopAfter(2)).code(), StatusCode::kCancelled);
  const Model other = Model::Random(model.config(), model.config().n_layers, 1, backend.get()).value();
  const Status status = Trainer::Create(other, *texts, o, Trainer::Start::kResume).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("model_fingerprint"));
}

// After a crash of the machine the log may be shorter than the state says, and may end anywhere.
TEST_F(TrainerTest, ALogThatLostLinesKeepsWholeOnes) {
  const TrainerOptions o = In("a");
  EXPECT_EQ(Create(o, Trainer::Start::kFresh)->Run(StopAfter(6)).code(), StatusCode::kCancelled);
  const std::string log = Bytes(o, "log.jsonl");
  ASSERT_TRUE(WriteFileAtomic(o.dir + "/log.jsonl", log.substr(0, log.size() / 2)).ok());
  ASSERT_TRUE(Create(o, Trainer::Start::kResume)->Run({}).ok());
  const std::vector<Json> steps = Steps(o);
  EXPECT_GE(steps.size(), 8u);
  EXPECT_EQ(steps.back().at("step"), 12);
}

TEST_F(TrainerTest, WhatAKilledRunWasWritingIsRemoved) {
  const TrainerOptions o = In("a");
  EXPECT_EQ(Create(o, Trainer::Start::kFresh)->Run(StopAfter(2)).code(), StatusCode::kCancelled);
  const std::string half = o.dir + "/state.json.tmp12";
  ASSERT_TRUE(WriteFileAtomic(half, "{").ok());
  EXPECT_TRUE(Create(o, Trainer::Start::kResume).ok());
  EXPECT_FALSE(FileExists(half));
  EXPECT_TRUE(HasUnfinishedRun(o.dir));
}

TEST_F(TrainerTest, AMemoryLimitIsKept) {
  TrainerOptions o = In("a");
  o.memory_limit = 1 << 16;
  const Status status = Create(o, Trainer::Start::kFresh).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("64.0 KiB are available"));
}

TEST_F(TrainerTest, OptionsGoToTheirEnds) {
  int n = 0;
  const auto message = [&](auto change) {
    TrainerOptions o = In("options" + std::to_string(n++));
    o.schedule = {.n_steps = 1, .lr = 0.02, .reg_weight = 0.05};
    change(o);
    return Create(o, Trainer::Start::kFresh).status().message();
  };
  EXPECT_EQ(message([](auto& o) { o.schedule.lr = 1; }), "");
  EXPECT_EQ(message([](auto& o) { o.schedule.reg_weight = 0; }), "");
  EXPECT_EQ(message([](auto& o) { o.schedule.reg_weight = 1e6; }), "");
  EXPECT_EQ(message([](auto& o) { o.accumulate = 4096, o.save_every = 1; }), "");
  EXPECT_THAT(message([](auto& o) { o.schedule.n_steps = 0; }), HasSubstr("n_steps is 0"));
  EXPECT_THAT(message([](auto& o) { o.schedule.lr = 0; }), HasSubstr("lr"));
  EXPECT_THAT(message([](auto& o) { o.schedule.lr = 1.01; }), HasSubstr("lr"));
  EXPECT_THAT(message([](auto& o) { o.schedule.lr = NAN; }), HasSubstr("lr"));
  EXPECT_THAT(message([](auto& o) { o.schedule.reg_weight = -0.01; }), HasSubstr("reg"));
  EXPECT_THAT(message([](auto& o) { o.schedule.reg_weight = 1.01e6; }), HasSubstr("reg"));
  EXPECT_THAT(message([](auto& o) { o.schedule.target_sparsity = 0; }), HasSubstr("target_sparsity is "));
  EXPECT_THAT(message([](auto& o) { o.schedule.target_sparsity = 1; }), HasSubstr("target_sparsity is "));
  EXPECT_THAT(message([](auto& o) { o.schedule.target_sparsity = 0.5, o.schedule.reg_weight = 0; }),
              HasSubstr("target_sparsity is "));
  EXPECT_THAT(message([](auto& o) { o.accumulate = 0; }), HasSubstr("accumulate"));
  EXPECT_THAT(message([](auto& o) { o.accumulate = 4097; }), HasSubstr("accumulate"));
  EXPECT_THAT(message([](auto& o) { o.save_every = 0; }), HasSubstr("save_every is 0"));
  EXPECT_THAT(Create(In("nothing"), Trainer::Start::kResume).status().message(), HasSubstr("no unfinished run"));
}

// The losses of a step belong to the gates before it, and its learning rate is the one that it used.
TEST_F(TrainerTest, StepsTellWhatTheyDid) {
  TrainerOptions o = In("steps");
  o.accumulate = 2;
  o.save_every = 3;
  o.schedule.n_steps = 7;
  Trainer trainer = Create(o, Trainer::Start::kFresh).value();
  double mean = 1;
  std::vector<int64_t> saved;
  ASSERT_TRUE(trainer
                  .Run([&](const TrainerStep& s) {
                    EXPECT_EQ(s.lr, LearningRate(o.schedule, s.step - 1));
                    EXPECT_EQ(s.reg, mean);
                    mean = trainer.optimizer().mean_gate();
                    int64_t n_tokens = 0;
                    for (int64_t i = 2 * (s.step - 1); i < 2 * s.step; ++i) {
                      n_tokens += static_cast<int64_t>(texts->Make(static_cast<uint64_t>(i))->ids.size());
                    }
                    EXPECT_EQ(s.n_tokens, n_tokens);
                    EXPECT_EQ(s.distill > 0, s.step > 1) << "with all gates at 1 the student is the teacher";
                    EXPECT_GT(s.gflop_s, 0);
                    EXPECT_GT(s.seconds, 0);
                    saved.push_back(Json::parse(Bytes(o, "state.json")).at("step").get<int64_t>());
                    return true;
                  })
                  .ok());
  EXPECT_EQ(saved, (std::vector<int64_t>{0, 0, 0, 3, 3, 3, 6})) << "after every third step, and before the first";
  const std::vector<Json> steps = Steps(o);
  ASSERT_EQ(steps.size(), 7u);
  for (size_t i = 0; i < 7; ++i) {
    EXPECT_EQ(steps[i].at("step"), i + 1);
    EXPECT_EQ(steps[i].at("lr"), LearningRate(o.schedule, static_cast<int64_t>(i)));
  }
  const Json config = Json::parse(LoadHeadPattern(o.dir)->config_json);
  EXPECT_EQ(config.at("steps_done"), 7);
  EXPECT_EQ(config.at("batch_size"), 2);
  EXPECT_EQ(config.at("final_reg_weight"), trainer.optimizer().penalty());
  EXPECT_TRUE(config.contains("backend"));
}

TEST_F(TrainerTest, BrokenStatesAreErrors) {
  const TrainerOptions o = In("a");
  EXPECT_EQ(Create(o, Trainer::Start::kFresh)->Run(StopAfter(2)).code(), StatusCode::kCancelled);
  const Json good = Json::parse(Bytes(o, "state.json"));
  const auto failure = [&](const char* key, const Json& value) {
    Json bad = good;
    bad[key] = value;
    EXPECT_TRUE(WriteFileAtomic(o.dir + "/state.json", bad.dump()).ok());
    return Create(o, Trainer::Start::kResume).status().message();
  };
  EXPECT_THAT(failure("gates", {0.5}), HasSubstr("gates: 1 numbers, expected 16"));
  EXPECT_THAT(failure("gates", std::vector<double>(16, 2.0)), HasSubstr("gates"));
  EXPECT_THAT(failure("first", "x"), HasSubstr("first"));
  EXPECT_THAT(failure("step", 13), HasSubstr("step: 13"));
  EXPECT_THAT(failure("second", std::vector<double>(16, -1.0)), HasSubstr("second: number -1.0 out of range"));
  EXPECT_THAT(failure("reg_weight", -1), HasSubstr("reg_weight"));
  EXPECT_THAT(failure("facts", 1), HasSubstr("facts"));
  EXPECT_TRUE(WriteFileAtomic(o.dir + "/state.json", "{").ok());
  EXPECT_EQ(Create(o, Trainer::Start::kResume).status().code(), StatusCode::kCorrupt);
}

}  // namespace
}  // namespace duo
