#include "eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "base/data_for_test.h"
#include "base/file.h"
#include "base/temp_dir_for_test.h"
#include "duo/tokenizer.h"
#include "eval/text_source.h"

namespace duo {
namespace {

using testing::HasSubstr;

TEST(CompareRows, ByHand) {
  // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4).
  const float ln2 = std::log(2.0f);
  const std::vector<float> p = {ln2, 0, 0}, q = {5, 5 + ln2, 5};
  const RowScore s = CompareRows(p, q, 0);
  EXPECT_NEAR(s.full_nll, std::log(2), 1e-6);
  EXPECT_NEAR(s.nll, std::log(4), 1e-6);
  EXPECT_NEAR(s.kld, 0.5 * std::log(2) - 0.25 * std::log(2), 1e-6);
  EXPECT_EQ(s.top1, 0);
  const RowScore same = CompareRows(q, q, 1);
  EXPECT_EQ(same.kld, 0);  // exactly
  EXPECT_EQ(same.top1, 1);
  EXPECT_EQ(CompareRows(std::vector<float>{1, 1}, std::vector<float>{2, 2}, 0).top1, 1);  // ties: the lower id
}

TEST(MeanOf, ByHand) {
  const MeanError m = MeanOf(std::vector<double>{1, 2, 3, 6});
  EXPECT_DOUBLE_EQ(m.mean, 3);
  EXPECT_DOUBLE_EQ(m.error, std::sqrt(14.0 / 3 / 4));
  EXPECT_EQ(MeanOf(std::vector<double>{5}).error, 0);
  EXPECT_EQ(MeanOf(std::vector<double>{}).mean, 0);
}

TEST(MakeWindows, ScoreEveryTokenOnce) {
  std::vector<int32_t> ids(23);
  std::iota(ids.begin(), ids.end(), 100);
  const auto windows = MakeWindows(ids, 7, {.context = 9, .stride = 4}).value();
  std::vector<int32_t> scored;
  for (const Window& w : windows) {
    EXPECT_EQ(w.ids.size(), 9u);
    EXPECT_EQ(w.ids[0], 7);
    scored.insert(scored.end(), w.ids.begin() + static_cast<std::ptrdiff_t>(w.begin), w.ids.end());
  }
  std::vector<int32_t> expected(ids.begin(), ids.begin() + 20);  // 8 + 3 * 4: what whole windows reach
  EXPECT_EQ(scored, expected);
  EXPECT_EQ(MakeWindows(ids, -1, {.context = 9, .stride = 4, .n_windows = 2})->size(), 2u);
  EXPECT_EQ((*MakeWindows(ids, -1, {.context = 9, .stride = 4}))[0].begin, 1);
  EXPECT_THAT(MakeWindows(ids, 7, {.context = 30, .stride = 4}).status().message(), HasSubstr("needs 29"));
  EXPECT_EQ(MakeWindows(ids, 7, {.context = 30, .stride = 4}).status().subject(), "text");
  EXPECT_FALSE(MakeWindows(ids, 7, {.context = 9, .stride = 9}).ok());
  EXPECT_FALSE(MakeWindows(ids, 7, {.context = 1, .stride = 1}).ok());
}

class ScoreTextTest : public testing::Test {
 protected:
  ScoreTextTest() {
    const std::string text = TextSource::Open("builtin")->Whole(700, tokenizer).value();
    ids = tokenizer.Encode(text, SpecialTokens::kNone);
    windows = MakeWindows(ids, tokenizer.bos_id(), {.context = 400, .stride = 200, .n_windows = 2}).value();
  }
  SessionOptions At(double sparsity, ComputeType compute = ComputeType::kF32) const {
    SessionOptions options;
    options.heads = ChooseBySparsity(pattern, sparsity).value();
    options.sink = 4, options.recent = 16, options.max_context = 400, options.chunk = 64;
    options.compute = compute;
    options.kv_type = compute == ComputeType::kF32 ? KvType::kF32 : KvType::kBF16;
    return options;
  }
  TextScores Score(const std::vector<SessionOptions>& modes, FullLogits* saved = nullptr, ResultLog* log = nullptr) {
    ResultLog own;
    return ScoreText(model, windows, At(0), modes, saved, log != nullptr ? log : &own).value();
  }
  BackendPtr backend = CreateBackend({.n_threads = 2}).value();
  Model model = Model::Open(SourceDir() + "/models/demo", backend.get()).value();
  Tokenizer tokenizer = Tokenizer::Open(SourceDir() + "/models/demo").value();
  HeadPattern pattern = LoadHeadPattern(SourceDir() + "/models/demo/pattern").value();
  std::vector<int32_t> ids;
  std::vector<Window> windows;
};

// Against logits of one plain pass over each window.
TEST_F(ScoreTextTest, IsTheMeanOfMinusLogP) {
  const TextScores scores = Score({});
  std::vector<double> expected;
  for (const Window& w : windows) {
    Session session = Session::Create(model, At(0)).value();
    ASSERT_TRUE(session
                    .PrefillWithLogits(w.ids, 0, static_cast<int64_t>(w.ids.size()),
                                       [&](int64_t pos, std::span<const float> row) {
                                         if (pos + 1 >= w.begin && pos + 1 < static_cast<int64_t>(w.ids.size())) {
                                           const int32_t id = w.ids[static_cast<size_t>(pos + 1)];
                                           expected.push_back(CompareRows(row, row, id).nll);
                                         }
                                         return OkStatus();
                                       })
                    .ok());
  }
  ASSERT_EQ(scores.full_nll.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(scores.full_nll[i], expected[i], 1e-4) << i;
  EXPECT_LT(MeanOf(scores.full_nll).mean, 4.0);  // it knows this language; chance is ln 1024 = 6.9
}

TEST_F(ScoreTextTest, NoStreamingHeadsNoDivergence) {
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    ResultLog log;
    const TextScores scores =
        ScoreText(model, windows, At(0, compute), std::vector{At(0, compute)}, nullptr, &log).value();
    for (const double kld : scores.modes[0].kld) ASSERT_EQ(kld, 0.0);
    EXPECT_EQ(scores.modes[0].nll, scores.full_nll);
    EXPECT_EQ(MeanOf(scores.modes[0].top1).mean, 1.0);
  }
}

TEST_F(ScoreTextTest, MoreStreamingHeadsDivergeMoreAndOnlyBehindTheWindow) {
  const TextScores scores = Score({At(0.5), At(1)});
  EXPECT_GT(MeanOf(scores.modes[0].kld).mean, 0);
  EXPECT_GT(MeanOf(scores.modes[1].kld).mean, MeanOf(scores.modes[0].kld).mean);
  for (size_t i = 0; i < scores.positions.size(); ++i) {
    if (scores.positions[i] > 16) continue;  // positions below the window see everything
    ASSERT_LT(scores.modes[1].kld[i], 1e-9) << scores.positions[i];
  }
  const std::vector<PositionBucket> buckets = BucketsOf(scores, 1);
  ASSERT_EQ(buckets.size(), 3u);
  EXPECT_EQ(buckets[0].begin, 0);
  EXPECT_EQ(buckets[0].end, 128);
  EXPECT_EQ(buckets[2].end, 512);
  int64_t n = 0;
  for (const PositionBucket& b : buckets) n += b.n;
  EXPECT_EQ(n, static_cast<int64_t>(scores.positions.size()));
}

TEST_F(ScoreTextTest, SavedLogitsGiveTheSameAndAreChecked) {
  const TempDir dir;
  const std::string path = dir.file("full.safetensors");
  const Json recipe = {{"text", "a"}};
  const int64_t n = 399 + 200, vocab = model.config().vocab_size;
  const TextScores direct = Score({At(0.5)});
  FullLogits writer = FullLogits::Open(path, recipe, n, vocab).value();
  EXPECT_FALSE(writer.is_complete());
  EXPECT_FALSE(FileExists(path));
  EXPECT_EQ(Score({At(0.5)}, &writer).modes[0].kld, direct.modes[0].kld);
  ASSERT_TRUE(FileExists(path));
  FullLogits reader = FullLogits::Open(path, recipe, n, vocab).value();
  ASSERT_TRUE(reader.is_complete());
  EXPECT_EQ(Score({At(0.5)}, &reader).modes[0].kld, direct.modes[0].kld);
  // Windows that are known are left out of the file's rows too.
  ResultLog log;
  ASSERT_TRUE(log.Append("window/0",
                         [&] {
                           ResultLog whole;
                           Score({At(0.5)}, nullptr, &whole);
                           return *whole.Find("window/0");
                         }())
                  .ok());
  FullLogits again = FullLogits::Open(path, recipe, n, vocab).value();
  EXPECT_EQ(Score({At(0.5)}, &again, &log).modes[0].kld, direct.modes[0].kld);

  EXPECT_THAT(FullLogits::Open(path, {{"text", "b"}}, n, vocab).status().message(), HasSubstr("text \"a\", not \"b\""));
  EXPECT_THAT(FullLogits::Open(path, recipe, n + 1, vocab).status().message(), HasSubstr("expected the shape"));
  dir.Write("bad.safetensors", "no safetensors at all");
  EXPECT_EQ(FullLogits::Open(dir.file("bad.safetensors"), recipe, n, vocab).status().code(), StatusCode::kCorrupt);
}

TEST_F(ScoreTextTest, AStoppedRunGoesOnToTheSameNumbers) {
  const TextScores whole = Score({At(0.5)});
  ResultLog log;
  int calls = 0;
  const std::vector<SessionOptions> modes = {At(0.5)};
  const auto stopped = ScoreText(model, windows, At(0), modes, nullptr, &log,
                                 [&](const Progress& p) { return p.done == 0 || ++calls < 2; });
  EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled);
  EXPECT_EQ(log.size(), 1u);
  EXPECT_EQ(Score(modes, nullptr, &log).modes[0].kld, whole.modes[0].kld);
}

}  // namespace
}  // namespace duo
