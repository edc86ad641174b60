// Models with a weight that is NaN or infinite, or with products that overflow. Every call that reads logits must
// return the error.
#include "engine/non_finite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "base/bf16.h"
#include "base/finite.h"
#include "duo/generate.h"
#include "duo/session.h"
#include "model/tiny_config_for_test.h"
#include "model/weights.h"

namespace duo {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr int32_t kBadToken = 7;

class NonFinite : public testing::Test {
 protected:
  void SetUp() override {
    backend_ = CreateBackend({.device = Device::kCpu, .n_threads = 2}).value();
    model_.emplace(Model::Random(TinyConfig(), 0, 5, backend_.get()).value());
  }

  /// Elements of a matrix of the model, which is in this process's memory.
  static std::span<bf16> Elements(const MatrixView& matrix) {
    return {static_cast<bf16*>(const_cast<void*>(matrix.data)), static_cast<size_t>(matrix.n_out * matrix.n_in)};
  }
  void SpoilEmbedding() {
    Elements(model_->weights().embedding)[kBadToken * model_->config().hidden_size] = ToBf16(std::nanf(""));
  }
  Session Make(Workspace* workspace = nullptr) {
    SessionOptions options;
    options.compute = ComputeType::kF32;
    options.kv_type = KvType::kF32;
    return Session::Create(*model_, options, workspace).value();
  }

  BackendPtr backend_;
  std::optional<Model> model_;
};

TEST(AllFinite, KnowsEveryKindOfNumber) {
  std::vector<float> values(67, 1.0f);
  values[3] = 3.4028235e38f, values[4] = -3.4028235e38f, values[5] = 1e-45f, values[6] = -0.0f;
  EXPECT_TRUE(AllFinite(values));
  for (const float bad : {INFINITY, -INFINITY, std::nanf(""), -std::nanf("")}) {
    for (const size_t at : {size_t{0}, size_t{32}, size_t{66}}) {
      std::vector<float> spoilt = values;
      spoilt[at] = bad;
      EXPECT_FALSE(AllFinite(spoilt)) << bad << " at " << at;
    }
  }
  EXPECT_TRUE(AllFinite({}));
}

TEST_F(NonFinite, PrefillNamesTheLayerInWhichItBegins) {
  Elements(model_->weights().layers[1].down)[5] = ToBf16(std::nanf(""));
  Session session = Make();
  const Status status = session.Prefill(std::vector<int32_t>{1, 2, 3});
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("model tiny: the logits after 3 tokens are NaN or infinite"),
                                      HasSubstr("from layer 1 (of 0..2) on")));
  EXPECT_TRUE(session.logits().empty());
}

TEST_F(NonFinite, APlaceThatTheLastTokensDoNotShowIsLeftOut) {
  SpoilEmbedding();
  Session session = Make();
  std::vector<int32_t> prompt(100, 1);
  prompt[0] = kBadToken;
  const Status status = session.Prefill(prompt);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("after 100 tokens are NaN or infinite; "), Not(HasSubstr("from "))));
}

TEST_F(NonFinite, ProductsThatOverflowAreFoundToo) {
  for (bf16& element : Elements(model_->weights().lm_head)) element = ToBf16(3e38f);
  Session session = Make();
  EXPECT_THAT(session.Prefill(std::vector<int32_t>{1}).message(),
              HasSubstr("from the final norm and the output matrix"));
}

TEST_F(NonFinite, RowsBeforeTheBadOneAreGiven) {
  SpoilEmbedding();
  SessionOptions options;
  options.chunk = 2;
  Session session = Session::Create(*model_, options).value();
  std::vector<int64_t> given;
  const Status status = session.PrefillWithLogits(std::vector<int32_t>{1, 2, kBadToken, 3}, 0, 4,
                                                  [&](int64_t pos, std::span<const float> logits) {
                                                    EXPECT_TRUE(AllFinite(logits));
                                                    given.push_back(pos);
                                                    return OkStatus();
                                                  });
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("after 4 tokens"), HasSubstr("from the embedding of the tokens on")));
  EXPECT_EQ(given, (std::vector<int64_t>{0, 1}));
}

TEST_F(NonFinite, GenerateSaysSoWhateverTheSampling) {
  SpoilEmbedding();
  for (const double temperature : {0.0, 1.0}) {
    for (const double top_p : {1.0, 0.9}) {
      GenerateOptions options;
      options.max_tokens = 4;
      options.sampler.temperature = temperature;
      options.sampler.top_p = top_p;
      Session session = Make();
      const auto in_prompt = Generate(&session, *model_, nullptr, {1, kBadToken}, options);
      EXPECT_EQ(in_prompt.status().code(), StatusCode::kInternal);
      options.sampler.bias = {{kBadToken, 100.0f}};  // the sampler now chooses it
      Session other = Make();
      const auto in_answer = Generate(&other, *model_, nullptr, {1, 2}, options);
      EXPECT_EQ(in_answer.status().code(), StatusCode::kInternal);
      EXPECT_THAT(in_answer.status().message(), HasSubstr("after 3 tokens"));
    }
  }
}

TEST_F(NonFinite, SequencesThatAreDecodedTogetherDoNotSuffer) {
  SpoilEmbedding();
  SessionOptions options;
  options.compute = ComputeType::kF32;
  options.kv_type = KvType::kF32;
  Workspace workspace = Workspace::Create(*model_, options).value();
  Session good = Make(&workspace), bad = Make(&workspace), also_good = Make(&workspace), alone = Make();
  ASSERT_TRUE(good.Prefill(std::vector<int32_t>{1, 2}).ok());
  ASSERT_TRUE(bad.Prefill(std::vector<int32_t>{3}).ok());
  ASSERT_TRUE(also_good.Prefill(std::vector<int32_t>{4, 5}).ok());
  ASSERT_TRUE(alone.Prefill(std::vector<int32_t>{1, 2}).ok());
  ASSERT_TRUE(alone.Decode(9).ok());
  Session* const sessions[] = {&good, &bad, &also_good};
  const int32_t ids[] = {9, kBadToken, 9};
  const Status status = Session::DecodeTogether(sessions, ids);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("after 2 tokens"));
  EXPECT_TRUE(bad.logits().empty());
  EXPECT_EQ(also_good.logits().size(), 97u);
  ASSERT_EQ(good.logits().size(), 97u);
  for (size_t i = 0; i < 97; ++i) EXPECT_EQ(good.logits()[i], alone.logits()[i]) << i;
  ASSERT_TRUE(good.Decode(3).ok());
}

}  // namespace
}  // namespace duo
