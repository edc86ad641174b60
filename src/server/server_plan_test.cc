#include "server/server_plan.h"

#include <gtest/gtest.h>

#include "server/serving_for_test.h"

namespace duo {
namespace {

class ServerPlanTest : public ServingTest {
 protected:
  Result<ServerPlan> Plan(const ServerOptions& options) {
    SessionOptions session = options_;
    session.max_context = 4096;
    return PlanServer({.model = &*model_, .tokenizer = nullptr, .session = session, .pattern = {}, .pattern_name = ""},
                      options);
  }
  static ServerOptions WithMemory(uint64_t bytes) {
    ServerOptions options;
    options.memory_bytes = bytes;
    options.http.max_body_bytes = 64 << 10;
    return options;
  }
};

TEST_F(ServerPlanTest, ThePartsAreTheBudget) {
  const ServerPlan plan = Plan(WithMemory(uint64_t{1} << 30)).value();
  EXPECT_EQ(plan.budget_bytes, uint64_t{1} << 30);
  EXPECT_GT(plan.bodies_bytes, 0u);
  EXPECT_EQ(plan.memory.weights_bytes + plan.memory.activation_bytes + plan.bodies_bytes + plan.pool.budget_bytes,
            plan.budget_bytes);
  EXPECT_EQ(plan.pool.workspace_bytes, plan.memory.activation_bytes);
  EXPECT_EQ(plan.cache.session.memory_limit, plan.budget_bytes);
  EXPECT_GT(plan.full_memory.kv_bytes_per_token, plan.memory.kv_bytes_per_token) << "full attention keeps more";
  EXPECT_GE(plan.pool.max_sequences, 8u);
  EXPECT_LE(plan.pool.max_sequences, 1024u);
}

TEST_F(ServerPlanTest, TooLittleMemoryForAShortSequenceIsRefused) {
  const Status status = Plan(WithMemory(1 << 20)).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(status.subject(), "memory_bytes");
}

TEST_F(ServerPlanTest, AChunkHoldsATokenOfEverySequenceThatRuns) {
  ServerOptions options = WithMemory(uint64_t{1} << 30);
  options.scheduler.max_running = 33;  // the chunk of this test's sessions is 32
  const Status status = Plan(options).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.subject(), "chunk");
}

}  // namespace
}  // namespace duo
