// Tests of decoding one token of several sessions at once.
#include <algorithm>
#include <string>
#include <vector>

#include "engine/session_fixture_for_test.h"

namespace duo {
namespace {

class DecodeTogetherTest : public SessionTest {};

TEST_F(DecodeTogetherTest, EqualsDecodeOfEachAlone) {
  for (const int n_sequences : {1, 2, 5, 16}) {
    SessionOptions options = Split();
    options.snapshot_every = 32;
    options.chunk = 64;
    auto workspace = Workspace::Create(*model_, options);
    ASSERT_TRUE(workspace.ok()) << workspace.status().message();
    std::vector<Session> together, alone;
    for (int i = 0; i < n_sequences; ++i) {
      SessionOptions own = options;
      if (i % 3 == 1) own.heads = {};
      if (i % 3 == 2) own.recent = 9, own.sink = 0;
      auto session = Session::Create(*model_, own, &*workspace);
      ASSERT_TRUE(session.ok()) << session.status().message();
      together.push_back(std::move(*session));
      alone.push_back(Make(own));
      const std::span<const int32_t> prompt(prompt_.data() + i, 20 + 7 * i);
      ASSERT_TRUE(together.back().Prefill(prompt).ok());
      ASSERT_TRUE(alone.back().Prefill(prompt).ok());
    }
    std::vector<Session*> pointers;
    for (Session& session : together) pointers.push_back(&session);
    for (int step = 0; step < 40; ++step) {
      std::vector<int32_t> ids;
      for (int i = 0; i < n_sequences; ++i) ids.push_back((step * 7 + i * 3) % 97);
      ASSERT_TRUE(Session::DecodeTogether(pointers, ids).ok());
      for (int i = 0; i < n_sequences; ++i) {
        ASSERT_TRUE(alone[i].Decode(ids[i]).ok());
        ASSERT_EQ(together[i].len(), alone[i].len());
        ASSERT_TRUE(std::equal(alone[i].logits().begin(), alone[i].logits().end(), together[i].logits().begin()))
            << n_sequences << " sequences, step " << step << ", sequence " << i;
      }
    }
    EXPECT_EQ(together[0].tokens(), alone[0].tokens());
  }
}

// The threads divide the rows of a long text. The division must not depend on the other sequences.
TEST_F(DecodeTogetherTest, OfLongTextsEqualsDecodeOfEachAlone) {
  SessionOptions options = Split();
  options.recent = 400;
  options.max_context = 8192;
  auto workspace = Workspace::Create(*model_, options);
  ASSERT_TRUE(workspace.ok()) << workspace.status().message();
  std::vector<Session> together, alone;
  for (const int64_t depth : {100, 700, 1500, 6000}) {
    for (std::vector<Session>* sessions : {&together, &alone}) {
      sessions->push_back(std::move(Session::Create(*model_, options, &*workspace).value()));
      ASSERT_TRUE(sessions->back().FillSynthetic(depth, static_cast<uint64_t>(depth)).ok());
    }
  }
  std::vector<Session*> pointers;
  for (Session& session : together) pointers.push_back(&session);
  for (int step = 0; step < 3; ++step) {
    const std::vector<int32_t> ids = {step, step + 1, step + 2, step + 3};
    ASSERT_TRUE(Session::DecodeTogether(pointers, ids).ok());
    for (size_t i = 0; i < alone.size(); ++i) {
      ASSERT_TRUE(alone[i].Decode(ids[i]).ok());
      ASSERT_TRUE(std::equal(alone[i].logits().begin(), alone[i].logits().end(), together[i].logits().begin()))
          << "step " << step << ", sequence " << i;
    }
  }
}

TEST_F(DecodeTogetherTest, RefusesWhatCannotBe) {
  SessionOptions options = Split();
  options.max_context = 12;
  options.chunk = 2;
  auto workspace = Workspace::Create(*model_, options);
  ASSERT_TRUE(workspace.ok());
  std::vector<Session> sessions;
  for (int i = 0; i < 3; ++i) {
    sessions.push_back(std::move(Session::Create(*model_, options, &*workspace).value()));
    ASSERT_TRUE(sessions.back().Prefill(std::span<const int32_t>(prompt_).first(i == 1 ? 12 : 5)).ok());
  }
  Session stranger = Make(options);
  ASSERT_TRUE(stranger.Prefill(std::span<const int32_t>(prompt_).first(5)).ok());
  const auto code = [](std::vector<Session*> who, std::vector<int32_t> ids) {
    return Session::DecodeTogether(who, ids).code();
  };
  EXPECT_EQ(code({}, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({&sessions[0]}, {1, 2}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({&sessions[0], &sessions[0]}, {1, 2}), StatusCode::kInvalidArgument) << "twice";
  EXPECT_EQ(code({&sessions[0], &stranger}, {1, 2}), StatusCode::kInvalidArgument) << "another workspace";
  EXPECT_EQ(code({&sessions[0], &sessions[2]}, {1, 97}), StatusCode::kInvalidArgument) << "no such token";
  EXPECT_EQ(code({&sessions[0], &sessions[1]}, {1, 2}), StatusCode::kResourceExhausted) << "full";
  EXPECT_EQ(sessions[0].len(), 5);
  EXPECT_FALSE(sessions[0].logits().empty());
  EXPECT_EQ(code({&sessions[0], &sessions[2]}, {1, 2}), StatusCode::kOk);
  EXPECT_EQ(sessions[0].len(), 6);
  options.chunk = 3;
  EXPECT_EQ(Session::Create(*model_, options, &*workspace).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace duo
