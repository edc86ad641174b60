// Tests of the sequences over one model: sharing, reservation, reuse, eviction.
#include "server/sequence_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "server/serving_for_test.h"
#include "server/unavailable.h"

namespace duo {
namespace {

/// Without f32, which reuses sequences only in whole pieces (exact_answers_test.cc).
class PoolTest : public ServingTest {
 protected:
  void SetUp() override {
    ServingTest::SetUp();
    options_.compute = ComputeType::kBF16;
    workspace_.emplace(Workspace::Create(*model_, options_).value());
    plan_ = PlanMemory(model_->config(), 0, options_, *backend_).value();
  }
  SequencePool Pool(const PoolLimits& limits) { return SequencePool(*model_, &*workspace_, limits); }
  SequencePool::Wanted Wanted(const std::vector<int32_t>& prompt, int64_t more, const std::string& name = "") const {
    return {.prompt = prompt,
            .n_tokens = std::ssize(prompt) + more,
            .spec = &spec_,
            .options = &options_,
            .id = {.owner = "", .name = name},
            .fresh = false};
  }
  /// Claims a sequence and reads the rest of the prompt. Returns how many tokens were reused.
  int64_t RunOne(SequencePool* pool, const std::vector<int32_t>& prompt, const std::string& name = "") {
    const auto claim = pool->Acquire(Wanted(prompt, 4, name));
    EXPECT_TRUE(claim.ok()) << claim.status().message();
    if (!claim.ok()) return -1;
    EXPECT_EQ(claim->sequence->session->len(), claim->n_held);
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.begin() + claim->n_held, claim->sequence->session->tokens().begin()));
    const auto rest = std::span<const int32_t>(prompt).subspan(claim->n_held);
    EXPECT_TRUE(claim->sequence->session->Prefill(rest).ok());
    pool->Release(claim->sequence);
    return claim->n_held;
  }
  static PoolStatus StatusOf(const SequencePool& pool) { return pool.StatusFor({.owner = "", .sees_all = true}); }
  CacheSpec spec_;
};

TEST_F(PoolTest, GoesOnFromTheLongestPrefix) {
  SequencePool pool = Pool(Roomy());
  const std::vector<int32_t> text = Prompt(1, 200);
  EXPECT_EQ(RunOne(&pool, Joined(text, {1, 2, 3})), 0);
  EXPECT_EQ(RunOne(&pool, Prompt(2, 50)), 0);
  EXPECT_EQ(RunOne(&pool, Joined(text, {4, 5})), 192) << "the last snapshot before the texts differ";
  EXPECT_EQ(StatusOf(pool).idle.size(), 2u) << "the first was taken over";
  EXPECT_EQ(RunOne(&pool, Joined(text, {4, 5})), 201)
      << "the same text: only its last token is run again, for its logits";
  EXPECT_EQ(RunOne(&pool, {text.begin(), text.begin() + 100}), 96)
      << "a copy, because half of the sequence would be lost";
  EXPECT_EQ(StatusOf(pool).idle.size(), 3u);
  EXPECT_EQ(RunOne(&pool, Joined(text, {9})), 192) << "the long sequence still exists";
}

TEST_F(PoolTest, OtherWindowsDoNotMix) {
  SequencePool pool = Pool(Roomy());
  const std::vector<int32_t> text = Prompt(1, 100);
  RunOne(&pool, text);
  SessionOptions other = options_;
  other.recent = other.prefill_recent = 21;
  SequencePool::Wanted wanted = Wanted(text, 4);
  wanted.options = &other;
  EXPECT_EQ(pool.Acquire(wanted)->n_held, 0);
  wanted = Wanted(text, 4);
  wanted.fresh = true;
  EXPECT_EQ(pool.Acquire(wanted)->n_held, 0);
}

TEST_F(PoolTest, ARunningSequenceIsCopied) {
  SequencePool pool = Pool(Roomy());
  const std::vector<int32_t> text = Prompt(1, 150);
  const auto first = pool.Acquire(Wanted(text, 4));
  ASSERT_TRUE(first.ok() && first->sequence->session->Prefill(text).ok());
  const auto second = pool.Acquire(Wanted(Joined(text, {1}), 4));
  ASSERT_TRUE(second.ok());
  EXPECT_NE(second->sequence, first->sequence);
  EXPECT_EQ(second->n_held, 150) << "its rings end where the texts differ";
  EXPECT_EQ(first->sequence->session->len(), 150);
}

TEST_F(PoolTest, GivesUpWhatWasUsedLongestAgo) {
  SequencePool pool = Pool(RoomFor(3, 110));
  const std::vector<int32_t> a = Prompt(1, 100), b = Prompt(2, 100), c = Prompt(3, 100), d = Prompt(4, 100);
  RunOne(&pool, a), RunOne(&pool, b), RunOne(&pool, c);
  const size_t n = StatusOf(pool).idle.size();
  EXPECT_GT(RunOne(&pool, a), 0) << "a is used again";
  RunOne(&pool, d);
  EXPECT_LE(StatusOf(pool).idle.size(), n);
  EXPECT_GT(StatusOf(pool).n_evicted, 0u);
  EXPECT_LE(StatusOf(pool).reserved_bytes + StatusOf(pool).idle_bytes, pool.budget_bytes());
  EXPECT_GT(RunOne(&pool, a), 0) << "b was evicted, not a";
}

TEST_F(PoolTest, NamesAreKeptLongest) {
  SequencePool pool = Pool(RoomFor(2, 110));
  RunOne(&pool, Prompt(1, 100), "tale");
  RunOne(&pool, Prompt(2, 100));
  RunOne(&pool, Prompt(3, 100));
  EXPECT_TRUE(pool.Has({"", "tale"}));
  EXPECT_GT(RunOne(&pool, Joined(Prompt(1, 100), {1}), "tale"), 0);
}

TEST_F(PoolTest, MemoryIsReserved) {
  SequencePool pool = Pool(Limits(250));
  EXPECT_TRUE(pool.CheckEverFits(options_, 250).ok());
  const Status never = pool.CheckEverFits(options_, 251);
  EXPECT_EQ(never.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(never.message().find("251 tokens need"), std::string::npos) << never.message();
  const std::vector<int32_t> a = Prompt(1, 100), b = Prompt(2, 100);
  const auto first = pool.Acquire(Wanted(a, 100));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(WhyUnavailable(pool.Acquire(Wanted(b, 100)).status()), Unavailable::kNoMemory)
      << "the running sequence holds its reservation";
  ASSERT_TRUE(first->sequence->session->Prefill(a).ok());
  pool.Release(first->sequence);
  EXPECT_TRUE(pool.Acquire(Wanted(b, 100)).ok()) << "the idle sequence was evicted";
  EXPECT_EQ(StatusOf(pool).n_evicted, 1u);
}

// With windows larger than the server's, the workspace grows by the max need of the running sequences while they run.
TEST_F(PoolTest, WhatTheWorkspaceGrowsByIsGivenBack) {
  SessionOptions large = options_, larger = options_;
  large.recent = large.prefill_recent = 5000;
  larger.recent = larger.prefill_recent = 9000;
  const auto growth_of = [&](const SessionOptions& options) {
    return PlanMemory(model_->config(), 0, options, *backend_)->activation_bytes - plan_.activation_bytes;
  };
  ASSERT_GT(growth_of(large), 0u);
  SequencePool pool = Pool(Roomy());
  const uint64_t budget = pool.budget_bytes();
  const std::vector<int32_t> a = Prompt(1, 100), b = Prompt(2, 100);
  SequencePool::Wanted wanted = Wanted(a, 4), other = Wanted(b, 4);
  wanted.options = &large;
  other.options = &larger;
  const auto first = pool.Acquire(wanted), second = pool.Acquire(other);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(StatusOf(pool).growth_bytes, growth_of(larger)) << "they run one after the other";
  ASSERT_TRUE(first->sequence->session->Prefill(a).ok());
  ASSERT_TRUE(second->sequence->session->Prefill(b).ok());
  pool.Release(second->sequence);
  EXPECT_EQ(StatusOf(pool).growth_bytes, growth_of(large));
  ASSERT_TRUE(first->sequence->session->Prefill(b).ok()) << "the workspace grows again for the other one";
  pool.Drop(first->sequence);
  EXPECT_EQ(StatusOf(pool).growth_bytes, 0u);
  EXPECT_EQ(pool.budget_bytes(), budget);
  EXPECT_GT(RunOne(&pool, Joined(a, {1})) + 1, 0) << "the server's own windows need no growth";
  EXPECT_EQ(StatusOf(pool).growth_bytes, 0u);
}

TEST_F(PoolTest, TheGrowthIsReservedToo) {
  SessionOptions large = options_;
  large.recent = large.prefill_recent = 5000;
  const MemoryPlan plan = PlanMemory(model_->config(), 0, large, *backend_).value();
  const uint64_t growth = plan.activation_bytes - plan_.activation_bytes;
  const uint64_t bytes = plan.KvBytes(110) + BytesFor(110) - plan_.KvBytes(110);
  PoolLimits limits = Limits(110);
  limits.budget_bytes = bytes + growth - 1;
  EXPECT_EQ(Pool(limits).CheckEverFits(large, 110).code(), StatusCode::kResourceExhausted);
  limits.budget_bytes = bytes + growth + BytesFor(110);
  SequencePool pool = Pool(limits);
  EXPECT_TRUE(pool.CheckEverFits(large, 110).ok());
  const std::vector<int32_t> a = Prompt(1, 100), b = Prompt(2, 100), c = Prompt(3, 100);
  SequencePool::Wanted wanted = Wanted(a, 10);
  wanted.options = &large;
  const auto first = pool.Acquire(Wanted(b, 10));
  const auto second = pool.Acquire(wanted);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(pool.Acquire(Wanted(c, 10)).status().code(), StatusCode::kUnavailable);
  const uint64_t before = pool.n_freed();
  ASSERT_TRUE(second->sequence->session->Prefill(a).ok());
  pool.Release(second->sequence);
  EXPECT_NE(pool.n_freed(), before);
  EXPECT_TRUE(pool.Acquire(Wanted(c, 10)).ok());
}

TEST_F(PoolTest, NamedSessionsHaveOneOwnerAtATime) {
  SequencePool pool = Pool(Roomy());
  const std::vector<int32_t> text = Prompt(1, 100);
  RunOne(&pool, text, "tale");
  const auto claim = pool.Acquire(Wanted(text, 4, "tale"));
  ASSERT_TRUE(claim.ok());
  EXPECT_EQ(WhyUnavailable(pool.Acquire(Wanted(text, 4, "tale")).status()), Unavailable::kSessionBusy);
  EXPECT_EQ(WhyUnavailable(pool.CheckOut({.owner = "", .name = "tale"}).status()), Unavailable::kSessionBusy);
  EXPECT_EQ(pool.CheckOut({.owner = "", .name = "other"}).status().code(), StatusCode::kNotFound);
  pool.Release(claim->sequence);
  SessionOptions other = options_;
  other.sink = 5;
  SequencePool::Wanted wanted = Wanted(text, 4, "tale");
  wanted.options = &other;
  EXPECT_EQ(pool.Acquire(wanted).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(RunOne(&pool, Prompt(9, 40), "tale"), 0) << "another text under the same name has no common prefix";
  EXPECT_EQ(RunOne(&pool, Joined(text, {1})), 0) << "the old text is gone";
  EXPECT_EQ(pool.Reserve({.owner = "", .name = "tale"}, spec_, options_, 10).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(pool.CheckOut({.owner = "", .name = "tale"}).ok());
}

TEST_F(PoolTest, NothingIsSharedBetweenOwnersOrSalts) {
  const std::vector<int32_t> text = Prompt(1, 200);
  const auto held = [&](SequencePool* pool, const SessionId& id, const std::string& salt) {
    CacheSpec spec = spec_;
    spec.salt = salt;
    SequencePool::Wanted wanted = Wanted(text, 4);
    wanted.id = id;
    wanted.spec = &spec;
    const auto claim = pool->Acquire(wanted);
    EXPECT_TRUE(claim.ok()) << claim.status().message();
    if (!claim.ok()) return int64_t{-1};
    const auto rest = std::span<const int32_t>(text).subspan(claim->n_held);
    EXPECT_TRUE(claim->sequence->session->Prefill(rest).ok());
    pool->Release(claim->sequence);
    return claim->n_held;
  };
  SequencePool pool = Pool(Roomy());
  EXPECT_EQ(held(&pool, {"anna", ""}, ""), 0);
  EXPECT_GT(held(&pool, {"anna", ""}, ""), 0);
  EXPECT_EQ(held(&pool, {"ben", ""}, ""), 0) << "ben does not find what anna asked";
  EXPECT_EQ(held(&pool, {"anna", ""}, "s"), 0) << "a salted request does not find it either";
  EXPECT_GT(held(&pool, {"anna", ""}, "s"), 0);
  EXPECT_EQ(held(&pool, {"ben", ""}, "s"), 0);
  // The same holds for named sequences: for their copies, and for sessions of the same name.
  EXPECT_GT(held(&pool, {"anna", "tale"}, ""), 0);
  EXPECT_GT(held(&pool, {"anna", "tale"}, ""), 0);
  EXPECT_EQ(held(&pool, {"carl", "tale"}, ""), 0) << "another owner's session of that name";
  EXPECT_TRUE(pool.Has({"anna", "tale"}) && pool.Has({"carl", "tale"}) && !pool.Has({"ben", "tale"}));
  EXPECT_EQ(pool.CheckOut({"ben", "tale"}).status().code(), StatusCode::kNotFound);
  CacheSpec salted = spec_;
  salted.salt = "s";
  SequencePool::Wanted wanted = Wanted(text, 4);
  wanted.id = {"anna", "tale"};
  wanted.spec = &salted;
  EXPECT_EQ(pool.Acquire(wanted).status().code(), StatusCode::kInvalidArgument)
      << "the session was started without a salt";
  const auto idle_bytes = [&](const char* owner) { return pool.StatusFor({.owner = owner}).idle_bytes; };
  EXPECT_EQ(idle_bytes("anna") + idle_bytes("ben") + idle_bytes("carl"), StatusOf(pool).idle_bytes);
  EXPECT_EQ(idle_bytes("nobody"), 0u);
}

}  // namespace
}  // namespace duo
