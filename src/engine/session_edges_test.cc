// Edge cases of sessions: exactly enough of a resource, the state after an error, the calls of callbacks.
#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "duo/session.h"
#include "model/tiny_config_for_test.h"

namespace duo {
namespace {

class SessionEdges : public testing::Test {
 protected:
  void SetUp() override {
    backend_ = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
    model_.emplace(Model::Random(TinyConfig(), 0, 5, backend_.get()).value());
    for (int i = 0; i < 100; ++i) prompt_.push_back(i * 31 % 97);
  }
  static SessionOptions Options() {
    SessionOptions options;
    options.heads = {.n_layers = 3, .n_kv_heads = 2, .retrieval = {1, 0, 0, 0, 0, 1}};
    options.compute = ComputeType::kF32;
    options.kv_type = KvType::kF32;
    options.sink = 4;
    options.recent = 20;
    options.chunk = 16;
    return options;
  }
  Session Make(const SessionOptions& options = Options()) { return Session::Create(*model_, options).value(); }
  std::span<const int32_t> First(size_t n) const { return std::span<const int32_t>(prompt_).first(n); }
  static std::vector<float> Copy(std::span<const float> values) { return {values.begin(), values.end()}; }

  BackendPtr backend_;
  std::optional<Model> model_;
  std::vector<int32_t> prompt_;
};

TEST_F(SessionEdges, MemoryThatIsExactlyEnoughIsEnough) {
  SessionOptions options = Options();
  const MemoryPlan plan = Make().plan();
  options.memory_limit = plan.activation_bytes + plan.KvBytes(0);
  EXPECT_TRUE(Session::Create(*model_, options).ok());
  --options.memory_limit;
  const Status status = Session::Create(*model_, options).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("alone need"), std::string::npos) << status.message();

  Workspace workspace = Workspace::Create(*model_, options).value();
  options.memory_limit = plan.KvBytes(0);
  EXPECT_TRUE(Session::Create(*model_, options, &workspace).ok()) << "activations belong to the workspace";
  --options.memory_limit;
  EXPECT_FALSE(Session::Create(*model_, options, &workspace).ok());
}

TEST_F(SessionEdges, TheContextMayBeFilledToItsLastToken) {
  SessionOptions options = Options();
  options.max_context = 50;
  Session session = Make(options);
  EXPECT_TRUE(session.CheckFits(50).ok());
  EXPECT_FALSE(session.CheckFits(51).ok());
  EXPECT_TRUE(session.CheckFits(0).ok());
  ASSERT_TRUE(session.Prefill(First(49)).ok());
  ASSERT_TRUE(session.Decode(1).ok());
  const std::vector<float> logits = Copy(session.logits());
  const Status full = session.Decode(1);
  EXPECT_EQ(full.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(full.message().find("50 + 1 tokens do not fit the context of 50 tokens;"), std::string::npos)
      << full.message();
  EXPECT_EQ(session.len(), 50);
  EXPECT_EQ(Copy(session.logits()), logits) << "unchanged";
  const Status trained = Make().CheckFits(601);
  EXPECT_NE(trained.message().find("context of 600 tokens this model was trained for"), std::string::npos)
      << trained.message();
}

TEST_F(SessionEdges, ErrorsBeforeTheFirstChunkLeaveEverything) {
  Session session = Make();
  ASSERT_TRUE(session.Prefill(First(30)).ok());
  const std::vector<float> logits = Copy(session.logits());
  EXPECT_FALSE(session.Prefill({}).ok());
  EXPECT_FALSE(session.Prefill(std::vector<int32_t>{0, 1, 97}).ok());
  EXPECT_FALSE(session.Prefill(std::vector<int32_t>{-1}).ok());
  EXPECT_FALSE(session.Prefill(std::vector<int32_t>(571, 1)).ok());
  const auto row = [](int64_t, std::span<const float>) { return OkStatus(); };
  EXPECT_FALSE(session.PrefillWithLogits({}, 30, 30, row).ok());
  EXPECT_FALSE(session.PrefillWithLogits(std::vector<int32_t>(571, 1), 30, 30, row).ok());
  EXPECT_FALSE(session.PrefillWithLogits(First(10), 29, 35, row).ok()) << "begins before these tokens";
  EXPECT_FALSE(session.PrefillWithLogits(First(10), 35, 34, row).ok());
  EXPECT_FALSE(session.PrefillWithLogits(First(10), 35, 41, row).ok());
  EXPECT_FALSE(session.FillSynthetic(571, 1).ok());
  EXPECT_FALSE(session.Rewind(31).ok());
  EXPECT_FALSE(session.Rewind(-1).ok());
  EXPECT_FALSE(session.ClonePrefix(-1).ok());
  EXPECT_FALSE(session.ClonePrefix(31).ok());
  EXPECT_EQ(session.len(), 30);
  EXPECT_EQ(session.tokens().size(), 30u);
  EXPECT_EQ(Copy(session.logits()), logits);
}

TEST_F(SessionEdges, RewindingToTheEndChangesNothing) {
  Session session = Make();
  ASSERT_TRUE(session.Prefill(First(30)).ok());
  const std::vector<float> logits = Copy(session.logits());
  ASSERT_TRUE(session.Rewind(30).ok());
  EXPECT_EQ(session.RewindToHeld(30).value(), 30);
  EXPECT_EQ(Copy(session.logits()), logits);
  ASSERT_TRUE(session.Rewind(29).ok());
  EXPECT_TRUE(session.logits().empty());
  ASSERT_TRUE(session.Decode(prompt_[29]).ok());
  ASSERT_TRUE(session.RewindToHeld(29).ok());
  EXPECT_TRUE(session.logits().empty());
  ASSERT_TRUE(session.Decode(prompt_[29]).ok());
  ASSERT_TRUE(session.FillSynthetic(3, 1).ok());
  EXPECT_TRUE(session.logits().empty()) << "the model has not run synthetic tokens";
  EXPECT_EQ(session.tokens(), [&] {
    std::vector<int32_t> expected(prompt_.begin(), prompt_.begin() + 30);
    expected.insert(expected.end(), 3, 0);
    return expected;
  }());
  ASSERT_TRUE(session.Decode(1).ok());
  session.DropLogits();
  EXPECT_TRUE(session.logits().empty());
}

TEST_F(SessionEdges, ProgressComesAfterEachChunk) {
  Session session = Make();
  std::vector<int64_t> done;
  ASSERT_TRUE(session
                  .Prefill(First(40),
                           [&](const Progress& progress) {
                             EXPECT_STREQ(std::string(progress.stage).c_str(), "prefill");
                             EXPECT_EQ(progress.total, 40);
                             EXPECT_EQ(progress.memory_bytes, session.kv_bytes());
                             EXPECT_EQ(session.len(), progress.done);
                             EXPECT_GE(progress.seconds, 0);
                             done.push_back(progress.done);
                             return true;
                           })
                  .ok());
  EXPECT_EQ(done, (std::vector<int64_t>{16, 32, 40}));
  SessionOptions options = Options();
  options.snapshot_every = 20;
  Session snapshots = Make(options);
  done.clear();
  ASSERT_TRUE(snapshots
                  .Prefill(First(50),
                           [&](const Progress& progress) {
                             done.push_back(progress.done);
                             return true;
                           })
                  .ok());
  EXPECT_EQ(done, (std::vector<int64_t>{16, 20, 36, 40, 50})) << "no chunk crosses the position of a snapshot";
}

TEST_F(SessionEdges, LogitsComeOfTheRowsThatWereAskedFor) {
  const auto rows = [&](int64_t before, int64_t n, int64_t begin, int64_t end, int64_t chunk) {
    SessionOptions options = Options();
    options.chunk = chunk;
    Session session = Make(options);
    if (before > 0) {
      EXPECT_TRUE(session.Prefill(First(before)).ok());
    }
    std::vector<std::pair<int64_t, std::vector<float>>> got;
    const auto ids = std::span<const int32_t>(prompt_).subspan(before, n);
    EXPECT_TRUE(session
                    .PrefillWithLogits(ids, begin, end,
                                       [&](int64_t pos, std::span<const float> logits) {
                                         EXPECT_EQ(logits.size(), 97u);
                                         got.emplace_back(pos, Copy(logits));
                                         return OkStatus();
                                       })
                    .ok());
    EXPECT_EQ(session.len(), before + n);
    EXPECT_EQ(session.logits().size(), 97u);
    return got;
  };
  const auto all = rows(0, 90, 0, 90, 90);
  ASSERT_EQ(all.size(), 90u);
  for (const auto& [before, n, begin, end, chunk] : std::vector<std::array<int64_t, 5>>{{0, 90, 0, 90, 7},
                                                                                        {0, 90, 40, 41, 64},
                                                                                        {0, 90, 89, 90, 16},
                                                                                        {10, 80, 10, 90, 64},
                                                                                        {10, 80, 33, 70, 40},
                                                                                        {10, 80, 50, 50, 16},
                                                                                        {89, 1, 89, 90, 1},
                                                                                        {0, 90, 0, 1, 16}}) {
    const auto got = rows(before, n, begin, end, chunk);
    ASSERT_EQ(std::ssize(got), end - begin);
    for (size_t i = 0; i < got.size(); ++i) {
      const int64_t at = begin + i;
      EXPECT_EQ(got[i].first, at);
      for (size_t v = 0; v < 97; ++v) EXPECT_NEAR(got[i].second[v], all[at].second[v], 1e-4f) << at;
    }
  }
  Session session = Make();
  int calls = 0;
  const Status stopped = session.PrefillWithLogits(First(60), 0, 60, [&](int64_t, std::span<const float>) {
    return ++calls == 20 ? Status(StatusCode::kCancelled, "enough") : OkStatus();
  });
  EXPECT_EQ(stopped.message(), "enough");
  EXPECT_EQ(calls, 20);
}

TEST_F(SessionEdges, AFreshCopyHasLogitsOnlyOfTheWhole) {
  Session session = Make();
  ASSERT_TRUE(session.Prefill(First(30)).ok());
  const Session whole = session.ClonePrefix(30).value();
  EXPECT_EQ(Copy(whole.logits()), Copy(session.logits()));
  EXPECT_EQ(whole.tokens(), session.tokens());
  EXPECT_EQ(whole.plan().activation_bytes, session.plan().activation_bytes);
  const Session part = session.ClonePrefix(29).value();
  EXPECT_TRUE(part.logits().empty());
  EXPECT_EQ(part.tokens(), std::vector<int32_t>(prompt_.begin(), prompt_.begin() + 29));
}

TEST_F(SessionEdges, ACopyOutlivesItsOriginalAndSharesWhatThatShared) {
  std::optional<Session> original(Make());
  ASSERT_TRUE(original->Prefill(First(30)).ok());
  Session copy = original->Clone().value();
  ASSERT_TRUE(original->Decode(5).ok());
  const std::vector<float> expected = Copy(original->logits());
  original.reset();
  ASSERT_TRUE(copy.Decode(5).ok());
  EXPECT_EQ(Copy(copy.logits()), expected);

  Workspace workspace = Workspace::Create(*model_, Options()).value();
  Session shared = Session::Create(*model_, Options(), &workspace).value();
  ASSERT_TRUE(shared.Prefill(First(30)).ok());
  Session other = shared.Clone().value();
  Session* const both[] = {&shared, &other};
  EXPECT_TRUE(Session::DecodeTogether(both, std::vector<int32_t>{5, 6}).ok()) << "they share a workspace";
}

TEST_F(SessionEdges, DecodingTogetherTakesUpToItsLimit) {
  const SessionOptions options = [] {
    SessionOptions all = Options();
    all.chunk = 64;
    return all;
  }();
  Workspace workspace = Workspace::Create(*model_, options).value();
  std::vector<Session> sessions;
  std::vector<Session*> pointers;
  std::vector<int32_t> ids;
  for (int i = 0; i <= Session::kMaxTogether; ++i) {
    sessions.push_back(Session::Create(*model_, options, &workspace).value());
    ASSERT_TRUE(sessions.back().Prefill(First(5)).ok());
    ids.push_back(i);
  }
  for (Session& session : sessions) pointers.push_back(&session);
  const auto first = [&](size_t n) {
    return Session::DecodeTogether(std::span<Session* const>(pointers).first(n),
                                   std::span<const int32_t>(ids).first(n));
  };
  EXPECT_EQ(first(17).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(first(16).ok());
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(sessions[i].len(), 6);
    EXPECT_EQ(sessions[i].tokens().back(), static_cast<int32_t>(i));
    EXPECT_EQ(sessions[i].logits().size(), 97u);
  }
  EXPECT_EQ(sessions[16].len(), 5);
  SessionOptions other = options;
  other.kv_type = KvType::kBF16;
  Session rounded = Session::Create(*model_, other, &workspace).value();
  ASSERT_TRUE(rounded.Prefill(First(5)).ok());
  Session* const mixed[] = {&sessions[0], &rounded};
  const Status status = Session::DecodeTogether(mixed, std::span<const int32_t>(ids).first(2));
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("type of K and V"), std::string::npos);
  EXPECT_EQ(sessions[0].len(), 6);
}

}  // namespace
}  // namespace duo
