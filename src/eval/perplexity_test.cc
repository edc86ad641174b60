#include "eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

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
    scored.insert(scored.end(), w.ids.begin() + w.begin, w.ids.end());
  }
  std::vector<int32_t> expected(ids.begin(), ids.begin() + 20);  // 8 + 3 * 4: the tokens that whole windows cover
  EXPECT_EQ(scored, expected);
  EXPECT_EQ(MakeWindows(ids, -1, {.context = 9, .stride = 4, .n_windows = 2})->size(), 2u);
  EXPECT_EQ((*MakeWindows(ids, -1, {.context = 9, .stride = 4}))[0].begin, 1);
  EXPECT_THAT(MakeWindows(ids, 7, {.context = 30, .stride = 4}).status().message(), HasSubstr("needs 29"));
  EXPECT_EQ(MakeWindows(ids, 7, {.context = 30, .stride = 4}).status().subject(), "text");
  EXPECT_FALSE(MakeWindows(ids, 7, {.context = 9, .stride = 9}).ok());
  EXPECT_FALSE(MakeWindows(ids, 7, {.context = 1, .stride = 1}).ok());
}

TEST(MakeWindows, TakesEveryOptionToItsEnds) {
  std::vector<int32_t> ids(10);
  std::iota(ids.begin(), ids.end(), 0);
  const auto begins = [&](int32_t bos, const WindowOptions& options) {
    std::vector<int64_t> out;
    const auto windows = MakeWindows(ids, bos, options);
    for (const Window& w : *windows) out.push_back(w.begin);
    return out;
  };
  EXPECT_EQ(begins(-1, {.context = 10, .stride = 9}), (std::vector<int64_t>{1})) << "the text is just long enough";
  EXPECT_FALSE(MakeWindows(ids, -1, {.context = 11, .stride = 9}).ok());
  EXPECT_EQ(begins(5, {.context = 11, .stride = 1}), (std::vector<int64_t>{1})) << "with a begin-of-text";
  EXPECT_EQ(begins(0, {.context = 10, .stride = 1}), (std::vector<int64_t>{1, 9})) << "whose id may be 0";
  EXPECT_EQ(begins(-1, {.context = 2, .stride = 1, .n_windows = 3}), (std::vector<int64_t>{1, 1, 1}));
  EXPECT_EQ(begins(-1, {.context = 2, .stride = 1}).size(), 9u);
  EXPECT_EQ(begins(-1, {.context = 4, .stride = 3}), (std::vector<int64_t>{1, 1, 1}));
  EXPECT_EQ((*MakeWindows(ids, -1, {.context = 4, .stride = 3}))[2].ids, (std::vector<int32_t>{6, 7, 8, 9}));
  EXPECT_THAT(MakeWindows(ids, -1, {.context = 1, .stride = 1}).status().message(),
              HasSubstr("context is 1; expected 2"));
  EXPECT_THAT(MakeWindows(ids, -1, {.context = 4, .stride = 0}).status().message(),
              HasSubstr("stride is 0; expected 1..3 tokens"));
}

TEST(BucketsOf, AreMeansOfPositionsThatDouble) {
  TextScores scores;
  scores.modes.resize(2);
  const auto add = [&](int64_t pos, double value) {
    scores.positions.push_back(pos);
    scores.full_nll.push_back(value);
    scores.modes[1].nll.push_back(2 * value);
    scores.modes[1].kld.push_back(3 * value);
    scores.modes[1].top1.push_back(pos % 2 == 0 ? 1 : 0);
  };
  add(1, 1), add(127, 3), add(128, 5), add(255, 6), add(600, 8);
  const std::vector<PositionBucket> buckets = BucketsOf(scores, 1);
  ASSERT_EQ(buckets.size(), 3u) << "256 to 511 are empty";
  const auto expect = [&](size_t i, int64_t begin, int64_t end, int64_t n, double mean, double top1) {
    EXPECT_EQ(buckets[i].begin, begin);
    EXPECT_EQ(buckets[i].end, end);
    EXPECT_EQ(buckets[i].n, n);
    EXPECT_DOUBLE_EQ(buckets[i].full_nll, mean);
    EXPECT_DOUBLE_EQ(buckets[i].nll, 2 * mean);
    EXPECT_DOUBLE_EQ(buckets[i].kld, 3 * mean);
    EXPECT_DOUBLE_EQ(buckets[i].top1, top1);
  };
  expect(0, 0, 128, 2, 2, 0);
  expect(1, 128, 256, 2, 5.5, 0.5);
  expect(2, 512, 1024, 1, 8, 1);
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

// Compares with the logits of one plain pass over each window.
TEST_F(ScoreTextTest, IsTheMeanOfMinusLogP) {
  const TextScores scores = Score({});
  std::vector<double> expected;
  for (const Window& w : windows) {
    Session session = Session::Create(model, At(0)).value();
    ASSERT_TRUE(session
                    .PrefillWithLogits(w.ids, 0, std::ssize(w.ids),
                                       [&](int64_t pos, std::span<const float> row) {
                                         if (pos + 1 >= w.begin && pos + 1 < std::ssize(w.ids)) {
                                           const int32_t id = w.ids[pos + 1];
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
  EXPECT_EQ(n, std::ssize(scores.positions));
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
  // Known windows are also skipped in the file's rows.
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

TEST_F(ScoreTextTest, AllSessionsTogetherAreHeldAgainstTheLimit) {
  SessionOptions full = At(0);
  const std::vector<SessionOptions> modes = {At(0.5), At(1)};
  uint64_t needed = PlanMemory(model.config(), 0, full, *backend)->TotalBytes(400);
  for (const SessionOptions& mode : modes) needed += PlanMemory(model.config(), 0, mode, *backend)->TotalBytes(400);
  const auto status = [&] {
    ResultLog log;
    return ScoreText(model, {windows[0]}, full, modes, nullptr, &log).status();
  };
  full.memory_limit = needed;
  EXPECT_TRUE(status().ok()) << status().message();
  --full.memory_limit;
  EXPECT_EQ(status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status().message(), HasSubstr("3 choices of heads side by side"));
}

TEST_F(ScoreTextTest, RecordsOfAnotherKindAreRefused) {
  ResultLog whole;
  const TextScores scores = Score({At(0.5)}, nullptr, &whole);
  const auto failure = [&](auto change) {
    Json record = *whole.Find("window/0");
    record.erase("key");
    change(record);
    ResultLog log;
    EXPECT_TRUE(log.Append("window/0", record).ok());
    EXPECT_TRUE(log.Append("window/1", *whole.Find("window/1")).ok());
    const std::vector<SessionOptions> modes = {At(0.5)};
    const auto result = ScoreText(model, windows, At(0), modes, nullptr, &log);
    EXPECT_TRUE(result.ok() || result.status().code() == StatusCode::kCorrupt);
    return result.status().message();
  };
  EXPECT_EQ(failure([](Json&) {}), "");
  for (const char* key : {"positions", "full_nll", "modes"}) {
    EXPECT_THAT(failure([&](Json& r) { r.erase(key); }), HasSubstr(std::string("window/0: ") + key));
    EXPECT_THAT(failure([&](Json& r) { r[key] = "x"; }), HasSubstr(std::string("window/0: ") + key));
  }
  EXPECT_THAT(failure([](Json& r) { r["modes"].push_back(r["modes"][0]); }), HasSubstr("modes: expected 1"));
  EXPECT_THAT(failure([](Json& r) { r["modes"][0] = 5; }), HasSubstr("modes: expected objects"));
  EXPECT_THAT(failure([](Json& r) { r["full_nll"][0] = "x"; }), HasSubstr("full_nll: expected numbers"));
  EXPECT_THAT(failure([](Json& r) { r["full_nll"][0] = 1e9; }), HasSubstr("full_nll: expected numbers"));
  const std::string apart = "lists differ in length, or a position is out of range";
  EXPECT_THAT(failure([](Json& r) { r["positions"][0] = 0; }), HasSubstr(apart));
  EXPECT_THAT(failure([](Json& r) { r["positions"][0] = -3; }), HasSubstr(apart));
  EXPECT_THAT(failure([](Json& r) { r["full_nll"].erase(0); }), HasSubstr(apart));
  for (const char* key : {"nll", "kld", "top1"}) {
    EXPECT_THAT(failure([&](Json& r) { r["modes"][0][key].push_back(0); }), HasSubstr(apart)) << key;
    EXPECT_THAT(failure([&](Json& r) { r["modes"][0].erase(key); }), HasSubstr(key));
  }
}

TEST_F(ScoreTextTest, ProgressCountsWindows) {
  std::set<int64_t> done;
  ResultLog log;
  ASSERT_TRUE(ScoreText(model, windows, At(0), {}, nullptr, &log, [&](const Progress& p) {
                EXPECT_EQ(p.total, 2);
                done.insert(p.done);
                return true;
              }).ok());
  EXPECT_EQ(done, (std::set<int64_t>{0, 1, 2}));
  EXPECT_EQ(log.size(), 2u);
  const TextScores again = ScoreText(model, windows, At(0), {}, nullptr, &log).value();
  std::vector<int64_t> expected;
  for (const Window& w : windows) {
    for (int64_t pos = w.begin; pos < 400; ++pos) expected.push_back(pos);
  }
  EXPECT_EQ(again.positions, expected);
}

TEST(FullLogits, AReferenceMustAgreeInWhatIsAskedOnly) {
  const TempDir dir;
  const std::string path = dir.file("full.safetensors");
  const Json recipe = {{"text", "a"}, {"weights", "bf16"}};
  FullLogits writer = FullLogits::Open(path, recipe, 3, 5).value();
  for (int r = 0; r < 3; ++r) {
    std::vector<float> row;
    for (int i = 0; i < 5; ++i) row.push_back(static_cast<float>(10 * r + i));
    ASSERT_TRUE(writer.Append(row).ok());
  }
  EXPECT_FALSE(FileExists(path)) << "appears when it is finished";
  ASSERT_TRUE(writer.Finish().ok());
  const std::string bytes = ReadFile(path, 1 << 20).value();
  EXPECT_EQ((bytes.size() - 3 * 5 * 4) % 64, 0u) << "rows are aligned";

  const auto open = [&](const Json& asked, FullLogitsUse use) { return FullLogits::Open(path, asked, 3, 5, use); };
  const FullLogits reader = open({{"text", "a"}}, FullLogitsUse::kReference).value();
  for (int64_t r = 0; r < 3; ++r) {
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(reader.row(r)[i], static_cast<float>(10 * r) + static_cast<float>(i));
  }
  EXPECT_TRUE(open(recipe, FullLogitsUse::kOwn).ok());
  EXPECT_THAT(open({{"text", "a"}}, FullLogitsUse::kOwn).status().message(),
              HasSubstr("made with weights \"bf16\", which is not given now"));
  EXPECT_THAT(open({{"text", "b"}}, FullLogitsUse::kReference).status().message(), HasSubstr("text"));
  EXPECT_FALSE(open({{"text", "a"}, {"more", 1}}, FullLogitsUse::kReference).ok());
  EXPECT_EQ(FullLogits::Open(dir.file("none"), recipe, 3, 5, FullLogitsUse::kReference).status().code(),
            StatusCode::kNotFound);
  EXPECT_FALSE(FullLogits::Open(path, recipe, 2, 5).ok());
  EXPECT_FALSE(FullLogits::Open(path, recipe, 3, 4).ok());
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
