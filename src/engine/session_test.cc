#include "duo/session.h"

#include <algorithm>
#include <string>
#include <vector>

#include "duo/generate.h"
#include "engine/session_fixture_for_test.h"

namespace duo {
namespace {

TEST_F(SessionTest, ChunkedEqualsOneShotEqualsTokenByToken) {
  for (const SessionOptions& base : {Exact(), Split()}) {
    SessionOptions options = base;
    options.chunk = 150;
    const std::vector<float> expected = LogitsAfterPrompt(options);
    for (const int64_t chunk : {1, 2, 7, 64, 149}) {
      SCOPED_TRACE(chunk);
      options.chunk = chunk;
      ExpectSame(LogitsAfterPrompt(options), expected);
    }
  }
}

TEST_F(SessionTest, WindowAsLongAsTheTextEqualsFullAttention) {
  SessionOptions options = Exact();
  const std::vector<float> full = LogitsAfterPrompt(options);
  options.heads = {.n_layers = 3, .n_kv_heads = 2, .retrieval = std::vector<uint8_t>(6, 0)};
  options.recent = 150;
  ExpectSame(LogitsAfterPrompt(options), full);
  options.recent = 20;
  EXPECT_GT(Distance(LogitsAfterPrompt(options), full), 1e-4f) << "a short window must change the logits";
  options.pinned_prefix = 150;
  ExpectSame(LogitsAfterPrompt(options), full);
  options.pinned_prefix = 0;
  options.prefill_recent = 150;
  ExpectSame(LogitsAfterPrompt(options), full);
}

TEST_F(SessionTest, RewindAndRegenerateEqualsAFreshRun) {
  for (const int64_t every : {0, 16, 50}) {
    for (const int64_t pos : {3, 40, 97, 149, 152}) {
      SCOPED_TRACE("snapshots every " + std::to_string(every) + ", back to " + std::to_string(pos));
      SessionOptions options = Split();
      options.snapshot_every = every;
      options.prefill_recent = 25;
      Session session = Make(options);
      ASSERT_TRUE(session.Prefill(prompt_).ok());
      for (int i = 0; i < 10; ++i) ASSERT_TRUE(session.Decode(i).ok());
      ASSERT_TRUE(session.Rewind(pos).ok());
      EXPECT_EQ(session.len(), pos);
      EXPECT_EQ(std::ssize(session.tokens()), pos);
      EXPECT_TRUE(session.logits().empty());
      Session fresh = Make(options);
      const auto prompt_part = static_cast<std::ptrdiff_t>(std::min<int64_t>(pos, 150));
      ASSERT_TRUE(fresh.Prefill(std::vector<int32_t>(prompt_.begin(), prompt_.begin() + prompt_part)).ok());
      for (int i = 0; i < pos - 150; ++i) ASSERT_TRUE(fresh.Decode(i).ok());
      for (const int32_t id : {60, 61, 62}) {
        ASSERT_TRUE(session.Decode(id).ok());
        ASSERT_TRUE(fresh.Decode(id).ok());
        ExpectSame(session.logits(), fresh.logits());
      }
    }
  }
}

TEST_F(SessionTest, RewindPrefillsAtMostOneSnapshotIntervalAgain) {
  SessionOptions options = Split();
  options.snapshot_every = 32;
  options.chunk = 1;
  Session session = Make(options);
  ASSERT_TRUE(session.Prefill(prompt_).ok());
  int64_t again = 0;
  ASSERT_TRUE(session
                  .Rewind(100,
                          [&](const Progress& progress) {
                            again = progress.done;
                            return true;
                          })
                  .ok());
  EXPECT_EQ(again, 100 - 96);
}

TEST_F(SessionTest, CloneGoesItsOwnWay) {
  Session session = Make(Split());
  ASSERT_TRUE(session.Prefill(prompt_).ok());
  auto copy = session.Clone();
  ASSERT_TRUE(copy.ok());
  ExpectSame(copy->logits(), session.logits());
  ASSERT_TRUE(copy->Decode(5).ok());
  ASSERT_TRUE(session.Decode(6).ok());
  ASSERT_TRUE(session.Rewind(150).ok());
  ASSERT_TRUE(session.Decode(5).ok());
  ExpectSame(copy->logits(), session.logits());
}

TEST_F(SessionTest, Bf16StaysCloseToF32) {
  const std::vector<float> exact = LogitsAfterPrompt(Split());
  SessionOptions options = Split();
  options.compute = ComputeType::kBF16;
  options.kv_type = KvType::kBF16;
  const std::vector<float> rounded = LogitsAfterPrompt(options);
  float largest = 0;
  for (const float x : exact) largest = std::max(largest, std::fabs(x));
  EXPECT_LE(Distance(exact, rounded), 0.03f * largest);
  EXPECT_GT(Distance(exact, rounded), 0.0f);
}

TEST_F(SessionTest, LogitsOfEveryPosition) {
  SessionOptions options = Split();
  options.chunk = 40;
  Session session = Make(options);
  std::vector<int64_t> seen;
  std::vector<float> at_90;
  ASSERT_TRUE(session
                  .PrefillWithLogits(prompt_, 0, 150,
                                     [&](int64_t pos, std::span<const float> logits) {
                                       seen.push_back(pos);
                                       if (pos == 90) at_90.assign(logits.begin(), logits.end());
                                       return OkStatus();
                                     })
                  .ok());
  ASSERT_EQ(seen.size(), 150u);
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  Session shorter = Make(options);
  ASSERT_TRUE(shorter.Prefill(std::vector<int32_t>(prompt_.begin(), prompt_.begin() + 91)).ok());
  ExpectSame(at_90, shorter.logits());
}

TEST_F(SessionTest, BadInputIsASentenceAndChangesNothing) {
  Session session = Make(Split());
  ASSERT_TRUE(session.Prefill(prompt_).ok());
  const std::vector<float> before(session.logits().begin(), session.logits().end());
  const Status bad_id = session.Prefill(std::vector<int32_t>{5, 97});
  EXPECT_EQ(bad_id.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(bad_id.message().find("token 1: id 97"), std::string::npos);
  EXPECT_FALSE(session.Decode(-1).ok());
  EXPECT_FALSE(session.Prefill({}).ok());
  const Status too_long = session.Prefill(std::vector<int32_t>(500, 1));
  EXPECT_EQ(too_long.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(too_long.message().find("600"), std::string::npos) << too_long.message();
  EXPECT_EQ(session.CheckFits(-1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session.CheckFits(INT64_MAX).code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE(session.Rewind(151).ok());
  EXPECT_EQ(session.len(), 150);
  ExpectSame(session.logits(), before);
}

TEST_F(SessionTest, OptionsAreChecked) {
  auto status = [&](auto change) {
    SessionOptions options = Exact();
    change(options);
    return Session::Create(*model_, options).status();
  };
  EXPECT_EQ(status([](auto& o) { o.chunk = 0; }).message(), "chunk is 0; expected 1..65536 tokens");
  EXPECT_EQ(status([](auto& o) { o.chunk = 0; }).subject(), "chunk");
  EXPECT_EQ(status([](auto& o) { o.recent = 0; }).subject(), "recent");
  EXPECT_EQ(status([](auto& o) { o.prefill_recent = 3; }).subject(), "prefill_recent");
  EXPECT_EQ(status([](auto& o) { o.sink = -1; }).subject(), "sink");
  EXPECT_EQ(status([](auto& o) { o.max_context = -1; }).subject(), "max_context");
  EXPECT_NE(status([](auto& o) { o.heads = AllRetrieval(3, 4); }).message().find("3 x 2"), std::string::npos);
  const Status heads = status([](auto& o) {
    o.heads = AllRetrieval(3, 2);
    o.heads.retrieval.pop_back();
  });
  EXPECT_NE(heads.message().find("choice of heads"), std::string::npos);
  EXPECT_EQ(heads.subject(), "heads");
}

TEST_F(SessionTest, WhatLiesBeyondTheContextTakesNoMemory) {
  const auto plan_of = [&](const SessionOptions& options) {
    return PlanMemory(model_->config(), 0, options, *backend_).value();
  };
  SessionOptions fitting = Split();
  fitting.max_context = 200;
  fitting.chunk = 200;
  fitting.sink = 50;
  fitting.recent = fitting.prefill_recent = 150;
  const MemoryPlan most = plan_of(fitting);
  SessionOptions beyond = fitting;
  beyond.chunk = 65536;
  beyond.recent = 1 << 30;
  beyond.prefill_recent = int64_t{1} << 31;
  EXPECT_EQ(plan_of(beyond).activation_bytes, most.activation_bytes);
  EXPECT_EQ(plan_of(beyond).kv_fixed_bytes, most.kv_fixed_bytes);
  EXPECT_EQ(Make(beyond).options().recent, 150);
  const std::vector<float> expected = LogitsAfterPrompt(fitting);
  ExpectSame(expected, LogitsAfterPrompt(beyond));
  for (int64_t SessionOptions::*sink : {&SessionOptions::sink, &SessionOptions::pinned_prefix}) {
    SessionOptions pinned = beyond;
    pinned.*sink = 1 << 30;
    EXPECT_LE(plan_of(pinned).activation_bytes, most.activation_bytes + 8192);
    EXPECT_LE(plan_of(pinned).kv_fixed_bytes, most.kv_fixed_bytes + 8192);
    ExpectSame(expected, LogitsAfterPrompt(pinned));
  }
  beyond.prefill_recent = beyond.recent - 1;
  EXPECT_EQ(PlanMemory(model_->config(), 0, beyond, *backend_).status().code(), StatusCode::kInvalidArgument)
      << "it is still a contradiction";
}

TEST_F(SessionTest, MemoryIsPromisedBeforeItIsUsed) {
  SessionOptions options = Split();
  options.chunk = 16;
  const MemoryPlan plan = Make(options).plan();
  options.memory_limit = plan.activation_bytes + plan.KvBytes(100);
  Session session = Make(options);
  const Status status = session.Prefill(prompt_);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("100 tokens would fit"), std::string::npos) << status.message();
  EXPECT_EQ(status.subject(), "memory_limit");
  EXPECT_EQ(session.len(), 0);
  EXPECT_TRUE(session.Prefill(std::vector<int32_t>(prompt_.begin(), prompt_.begin() + 100)).ok());
  EXPECT_EQ(session.kv_bytes(), plan.KvBytes(100));
  options.memory_limit = plan.activation_bytes / 2;
  EXPECT_EQ(Session::Create(*model_, options).status().code(), StatusCode::kResourceExhausted);
}

TEST_F(SessionTest, RewoundMemoryCanBeUsedAgain) {
  SessionOptions options = Split();
  options.chunk = 16;
  const MemoryPlan plan = Make(options).plan();
  options.memory_limit = plan.activation_bytes + plan.KvBytes(150);
  Session session = Make(options);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(session.Prefill(prompt_).ok());
    ASSERT_TRUE(session.Rewind(0).ok());
  }
}

TEST_F(SessionTest, PlanCountsHalfTheHeadsAsHalfTheBytes) {
  const auto full = PlanMemory(TinyConfig(), 0, Exact(), *backend_);
  const auto split = PlanMemory(TinyConfig(), 0, Split(), *backend_);
  ASSERT_TRUE(full.ok() && split.ok());
  EXPECT_EQ(full->kv_bytes_per_token, 6u * 2 * 16 * 4);
  EXPECT_EQ(split->kv_bytes_per_token, 2u * 2 * 16 * 4);
  EXPECT_EQ(split->kv_fixed_bytes, 4u * 2 * 24 * 16 * 4);
  const uint64_t budget = full->TotalBytes(1000);
  EXPECT_EQ(full->MaxContext(budget), 1000);
  EXPECT_EQ(full->MaxContext(budget - 1), 999);
  EXPECT_EQ(full->MaxContext(10), 0);
}

TEST_F(SessionTest, CancelledPrefillKeepsWholeChunks) {
  SessionOptions options = Split();
  options.chunk = 32;
  Session session = Make(options);
  const Status status = session.Prefill(prompt_, [](const Progress& progress) { return progress.done < 64; });
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
  EXPECT_EQ(session.len(), 64);
  ASSERT_TRUE(session.Prefill(std::vector<int32_t>(prompt_.begin() + 64, prompt_.end())).ok());
  ExpectSame(session.logits(), LogitsAfterPrompt(options));
}

TEST_F(SessionTest, SyntheticDepthDecodes) {
  Session session = Make(Split());
  ASSERT_TRUE(session.FillSynthetic(500, 3).ok());
  ASSERT_TRUE(session.Decode(1).ok());
  for (const float x : session.logits()) ASSERT_TRUE(std::isfinite(x));
  EXPECT_EQ(session.len(), 501);
}

TEST_F(SessionTest, GenerateStopsWhereItShould) {
  GenerateOptions options;
  options.max_tokens = 8;
  Session session = Make(Split());
  auto result = Generate(&session, *model_, nullptr, prompt_, options);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->tokens.size(), 8u);
  EXPECT_EQ(result->finish, FinishReason::kMaxTokens);
  EXPECT_EQ(session.len(), 150 + 7);
  options.stop_ids = {result->tokens[3]};
  Session again = Make(Split());
  auto stopped = Generate(&again, *model_, nullptr, prompt_, options);
  EXPECT_EQ(stopped->finish, FinishReason::kEos);
  const auto first = std::find(result->tokens.begin(), result->tokens.end(), result->tokens[3]);
  EXPECT_EQ(stopped->tokens, std::vector<int32_t>(result->tokens.begin(), first));
  options.stop = {"x"};
  EXPECT_FALSE(Generate(&again, *model_, nullptr, {1}, options).ok()) << "stop texts need a tokenizer";
}

TEST_F(SessionTest, GenerationEndsWhenTheContextIsFull) {
  SessionOptions options = Split();
  options.max_context = 155;
  Session session = Make(options);
  GenerateOptions generate;
  generate.max_tokens = 50;
  auto result = Generate(&session, *model_, nullptr, prompt_, generate);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->finish, FinishReason::kContextFull);
  EXPECT_EQ(result->tokens.size(), 6u);
}

// Sequences of different lengths and kinds of cache are decoded together, past points where snapshots are due. Each
// gives bit for bit the same as alone.
TEST_F(SessionTest, RewindToHeldLeavesTheRestToTheCaller) {
  SessionOptions options = Split();
  options.snapshot_every = 16;
  Session session = Make(options);
  ASSERT_TRUE(session.Prefill(prompt_).ok());
  const std::vector<float> expected(session.logits().begin(), session.logits().end());
  EXPECT_EQ(session.HeldAt(150), 150);
  EXPECT_EQ(session.HeldAt(100), 96);
  EXPECT_EQ(session.HeldAt(15), 0);
  auto held = session.RewindToHeld(100);
  ASSERT_TRUE(held.ok());
  EXPECT_EQ(*held, 96);
  EXPECT_EQ(session.len(), 96);
  EXPECT_EQ(session.tokens().size(), 96u);
  EXPECT_TRUE(session.logits().empty());
  ASSERT_TRUE(session.Prefill(std::span<const int32_t>(prompt_).subspan(96)).ok());
  ExpectSame(session.logits(), expected);
  EXPECT_EQ(session.RewindToHeld(151).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session.RewindToHeld(-1).status().code(), StatusCode::kInvalidArgument);
  session.DropLogits();
  EXPECT_TRUE(session.logits().empty());
  EXPECT_EQ(session.len(), 150);
  ASSERT_TRUE(Make(Exact()).RewindToHeld(0).ok());
  Session full = Make(Exact());
  ASSERT_TRUE(full.Prefill(prompt_).ok());
  EXPECT_EQ(full.RewindToHeld(70).value(), 70) << "retrieval heads hold everything";
}

}  // namespace
}  // namespace duo
