// Compares training-free scores and the inputs of matrices with their equations. The equations are computed with the
// plain model of tiny_checkpoint_for_test.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "base/temp_dir_for_test.h"
#include "identify/head_scores.h"
#include "identify/linear_inputs.h"
#include "model/tiny_checkpoint_for_test.h"

namespace duo {
namespace {

constexpr size_t kQHeads = TinyCheckpoint::kHeads, kGroup = TinyCheckpoint::kGroup;

class ScoresTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    backend_ = CreateBackend({.device = Device::kCpu, .n_threads = 2}).value();
    checkpoint_ = TinyCheckpoint(GetParam());
    checkpoint_.config["max_position_embeddings"] = 600;
    if (GetParam() == std::string("llama")) {
      checkpoint_.config["rope_scaling"] = {{"rope_type", "yarn"},
                                            {"factor", 4.0},
                                            {"original_max_position_embeddings", 150},
                                            {"attention_factor", 1.25}};
    }
    checkpoint_.Fill(7);
    checkpoint_.Write(dir_.path());
    model_.emplace(Model::Open(dir_.path(), backend_.get()).value());
  }
  static std::vector<int32_t> Ids(int n, int seed) {
    std::vector<int32_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back((i * i * 3 + i * seed + seed) % 50);
    return ids;
  }
  static WalkOptions Chunks(int64_t chunk) { return {.compute = ComputeType::kF32, .chunk = chunk}; }
  TinyCheckpoint::Output Plain(const std::vector<int32_t>& ids) const {
    return checkpoint_.Run(ids, model_->config().inv_freq, model_->config().rope_amplitude,
                           [](int, int, int64_t i, int64_t j) { return j <= i; });
  }
  static void ExpectScores(const Result<std::vector<double>>& got, const std::vector<double>& expected,
                           double tolerance) {
    ASSERT_TRUE(got.ok()) << got.status().message();
    ASSERT_EQ(got->size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR((*got)[i], expected[i], tolerance) << "head " << i;
  }

  TempDir dir_;
  BackendPtr backend_;
  TinyCheckpoint checkpoint_;
  std::optional<Model> model_;
};

INSTANTIATE_TEST_SUITE_P(Families, ScoresTest, testing::Values("llama", "qwen2", "qwen3"),
                         [](const auto& family) { return std::string(family.param); });

TEST_P(ScoresTest, RepeatIsTheLargestWeightOfAKeyInAnyPiece) {
  const std::vector<int32_t> context = Ids(37, 1), prompt = Ids(5, 2);
  for (const int64_t sink : {0, 4}) {
    for (const int64_t repeat_chunk : {10, 37, 100}) {
      std::vector<double> expected(4, 0.0);
      for (size_t begin = 0; begin < context.size(); begin += repeat_chunk) {
        const size_t end = std::min(context.size(), begin + repeat_chunk);
        std::vector<int32_t> ids = context;
        ids.insert(ids.end(), prompt.begin(), prompt.end());
        const size_t piece = ids.size();
        ids.insert(ids.end(), context.begin() + begin, context.begin() + end);
        const TinyCheckpoint::Output plain = Plain(ids);
        for (size_t layer = 0; layer < 2; ++layer) {
          for (size_t i = piece; i < ids.size(); ++i) {
            for (size_t head = 0; head < kQHeads; ++head) {
              double& score = expected[layer * 2 + head / kGroup];
              for (size_t j = sink; j < context.size(); ++j) {
                score = std::max(score, plain.layers[layer].weights[i][head][j]);
              }
            }
          }
        }
      }
      for (const int64_t chunk : {3, 64}) {
        int64_t done = 0, total = 0;
        const auto progress = [&](const Progress& p) {
          done = p.done;
          total = p.total;
          return true;
        };
        ExpectScores(
            RepeatScores(*model_, {.context = context, .prompt = prompt, .sink = sink, .repeat_chunk = repeat_chunk},
                         Chunks(chunk), progress),
            expected, 1e-4);
        EXPECT_EQ(done, total) << "progress ends at its total";
        EXPECT_EQ(total, 37 * 2 + 5 * ((37 + repeat_chunk - 1) / repeat_chunk));
      }
    }
  }
}

TEST_P(ScoresTest, ProfileIsTheMeanOfRunningSumsOfTheMeanQueriesAttention) {
  const std::vector<std::vector<int32_t>> texts = {Ids(30, 1), Ids(41, 5)};
  const auto mean = [](const std::vector<std::vector<double>>& rows) {
    std::vector<double> sums(rows[0].size(), 0.0);
    for (const auto& row : rows) {
      for (size_t d = 0; d < sums.size(); ++d) sums[d] += row[d] / static_cast<double>(rows.size());
    }
    return sums;
  };
  const ModelConfig& c = model_->config();
  std::vector<double> expected(4, 0.0);
  for (const std::vector<int32_t>& text : texts) {
    const TinyCheckpoint::Output plain = Plain(text);
    for (size_t layer = 0; layer < 2; ++layer) {
      const std::vector<double> k = mean(plain.layers[layer].k);
      const std::vector<double> q =
          TinyCheckpoint::Rotated(mean(plain.layers[layer].q), 499, c.inv_freq, c.rope_amplitude);
      for (size_t head = 0; head < kQHeads; ++head) {
        std::vector<double> weights;
        double sum = 0, running = 0, area = 0;
        for (size_t j = 0; j < 500; ++j) {
          const std::vector<double> key = TinyCheckpoint::Rotated(k, j, c.inv_freq, c.rope_amplitude);
          double dot = 0;
          for (size_t d = 0; d < 8; ++d) dot += q[head * 8 + d] * key[head / kGroup * 8 + d];
          weights.push_back(std::exp(dot / std::sqrt(8.0)));
          sum += weights.back();
        }
        for (const double weight : weights) area += running += weight / sum;
        expected[layer * 2 + head / kGroup] += area / 500 / static_cast<double>(kGroup * texts.size());
      }
    }
  }
  for (const int64_t chunk : {7, 64}) {
    int64_t done = 0;
    const auto progress = [&](const Progress& p) {
      EXPECT_EQ(p.total, 71);
      done = p.done;
      return true;
    };
    ExpectScores(ProfileScores(*model_, texts, Chunks(chunk), progress), expected, 1e-5);
    EXPECT_EQ(done, 71);
  }
}

TEST_P(ScoresTest, MassIsTheShareThatStreamingDoesNotSee) {
  const std::vector<std::vector<int32_t>> texts = {Ids(30, 1), Ids(41, 5)};
  for (const auto& [sink, recent] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {3, 6}, {4, 100}}) {
    std::vector<double> expected(4, 0.0);
    for (const std::vector<int32_t>& text : texts) {
      const TinyCheckpoint::Output plain = Plain(text);
      for (size_t layer = 0; layer < 2; ++layer) {
        for (size_t i = 0; i < text.size(); ++i) {
          for (size_t head = 0; head < kQHeads; ++head) {
            for (size_t j = sink; j + recent <= i; ++j) {
              expected[layer * 2 + head / kGroup] += plain.layers[layer].weights[i][head][j] / (71.0 * kGroup);
            }
          }
        }
      }
    }
    for (const int64_t chunk : {7, 64}) {
      ExpectScores(OutsideMassScores(*model_, texts, sink, recent, Chunks(chunk)), expected, 1e-4);
    }
  }
}

TEST_P(ScoresTest, InputsOfMatricesAreThoseOfTheEquations) {
  const std::vector<int32_t> ids = Ids(40, 3);
  const TinyCheckpoint::Output plain = Plain(ids);
  for (const int64_t chunk : {9, 64}) {
    const auto measured = MeasureLinearInputs(*model_, ids, Chunks(chunk));
    ASSERT_TRUE(measured.ok()) << measured.status().message();
    for (size_t layer = 0; layer < 2; ++layer) {
      const TinyCheckpoint::LayerValues& of = plain.layers[layer];
      const std::vector<std::vector<double>>* const inputs[] = {&of.normed, &of.attended, &of.middle, &of.down};
      for (size_t input = 0; input < kLinearInputs; ++input) {
        const std::vector<std::vector<double>>& rows = *inputs[input];
        const InputMagnitudes& got = (*measured)[layer].of[input];
        ASSERT_EQ(got.max.size(), rows[0].size());
        double squares = 0, largest = 0;
        for (size_t d = 0; d < rows[0].size(); ++d) {
          double most = 0;
          for (const auto& row : rows) {
            most = std::max(most, std::fabs(row[d]));
            squares += row[d] * row[d];
          }
          largest = std::max(largest, most);
          EXPECT_NEAR(got.max[d], most, 1e-4 * most + 1e-5) << layer << " " << input << " " << d;
        }
        const double rms = std::sqrt(squares / static_cast<double>(rows.size() * rows[0].size()));
        EXPECT_NEAR(got.rms, rms, 1e-4 * rms);
        EXPECT_NEAR(got.outlier(), largest / rms, 1e-3 * largest / rms);
      }
    }
  }
  EXPECT_EQ(InputMagnitudes().outlier(), 0) << "of nothing";
}

TEST_P(ScoresTest, AWalkTakesTheMemoryThatItSays) {
  const uint64_t bytes = LayerWalk::Bytes(*model_, 50, Chunks(16));
  WalkOptions options = Chunks(16);
  options.memory_limit = bytes;
  EXPECT_TRUE(LayerWalk::Create(*model_, 50, options).ok());
  --options.memory_limit;
  const Status status = LayerWalk::Create(*model_, 50, options).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("texts of 50 tokens"), std::string::npos) << status.message();
  // One more token adds a row of K and of V for each of four heads. With bf16 they take half of that.
  const uint64_t row = 4 * 2 * 8 * 4;
  EXPECT_GE(LayerWalk::Bytes(*model_, 51, Chunks(16)), bytes + row);
  WalkOptions rounded = Chunks(16);
  rounded.compute = ComputeType::kBF16;
  EXPECT_EQ(LayerWalk::Create(*model_, 50, rounded)->kv_type(), KvType::kBF16);
  EXPECT_EQ(LayerWalk::Create(*model_, 50, options = Chunks(16))->kv_type(), KvType::kF32);
  EXPECT_FALSE(LayerWalk::Create(*model_, 0, options).ok());
}

TEST_P(ScoresTest, RefusesWhatCannotBeScored) {
  const std::vector<int32_t> context = Ids(5, 1);
  const auto code = [&](int64_t sink, int64_t repeat_chunk) {
    return RepeatScores(*model_, {.context = context, .prompt = {}, .sink = sink, .repeat_chunk = repeat_chunk},
                        Chunks(8))
        .status()
        .code();
  };
  EXPECT_EQ(code(4, 1), StatusCode::kOk) << "one key that counts";
  EXPECT_EQ(code(5, 1), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(-1, 1), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(4, 0), StatusCode::kInvalidArgument);
  EXPECT_TRUE(ProfileScores(*model_, {{1, 2}}, Chunks(8)).ok());
  EXPECT_EQ(OutsideMassScores(*model_, {{1, 2}, {1}}, 0, 1, Chunks(8)).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(OutsideMassScores(*model_, {}, 0, 1, Chunks(8)).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace duo
