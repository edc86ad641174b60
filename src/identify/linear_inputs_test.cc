#include "identify/linear_inputs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/bf16.h"
#include "duo/backend.h"
#include "model/tiny_config_for_test.h"
#include "model/weights.h"

namespace duo {
namespace {

class LinearInputsTest : public testing::Test {
 protected:
  const std::vector<LayerInputs> Measure(const std::vector<int32_t>& ids, int64_t chunk) {
    auto measured = MeasureLinearInputs(model_, ids, {.compute = ComputeType::kF32, .chunk = chunk});
    EXPECT_TRUE(measured.ok()) << measured.status().message();
    return measured.ok() ? *std::move(measured) : std::vector<LayerInputs>(3);
  }

  BackendPtr backend_ = CreateBackend({.n_threads = 2}).value();
  Model model_ = Model::Random(TinyConfig(), 3, 5, backend_.get()).value();
};

TEST_F(LinearInputsTest, FirstLayerIsGivenTheNormedEmbedding) {
  const std::vector<int32_t> ids = {3, 14, 15, 92, 65};
  const int64_t hidden = model_.config().hidden_size;
  const auto* embedding = static_cast<const bf16*>(model_.weights().embedding.data);
  std::vector<double> most(hidden, 0.0);
  double squares = 0;
  for (const int32_t id : ids) {
    double energy = 0;
    const auto x = [&](int64_t i) { return static_cast<double>(ToFloat(embedding[id * hidden + i])); };
    for (int64_t i = 0; i < hidden; ++i) energy += x(i) * x(i);
    const double rms = std::sqrt(energy / static_cast<double>(hidden) + double{model_.config().rms_norm_eps});
    for (int64_t i = 0; i < hidden; ++i) {
      const double normed = x(i) / rms * double{model_.weights().layers[0].attention_norm[i]};
      most[i] = std::max(most[i], std::fabs(normed));
      squares += normed * normed;
    }
  }
  const InputMagnitudes got = Measure(ids, 512)[0].of[static_cast<size_t>(LinearInput::kAttention)];
  ASSERT_EQ(got.max.size(), most.size());
  for (size_t i = 0; i < most.size(); ++i) EXPECT_NEAR(got.max[i], most[i], 1e-5 * most[i]) << i;
  const double rms = std::sqrt(squares / static_cast<double>(ids.size() * most.size()));
  EXPECT_NEAR(got.rms, rms, 1e-5 * rms);
  EXPECT_NEAR(got.outlier(), *std::max_element(most.begin(), most.end()) / rms, 1e-4);
}

TEST_F(LinearInputsTest, AllInputsOfAllLayersWhateverTheChunk) {
  std::vector<int32_t> ids(50);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 37 % 97);
  const auto whole = Measure(ids, 512), pieces = Measure(ids, 7);
  ASSERT_EQ(whole.size(), 3u);
  for (size_t layer = 0; layer < whole.size(); ++layer) {
    const size_t dims[] = {48, 4 * 16, 48, 80};
    for (size_t input = 0; input < kLinearInputs; ++input) {
      const InputMagnitudes &a = whole[layer].of[input], &b = pieces[layer].of[input];
      ASSERT_EQ(a.max.size(), dims[input]);
      ASSERT_EQ(b.max.size(), dims[input]);
      EXPECT_GT(a.rms, 0);
      EXPECT_NEAR(a.rms, b.rms, 1e-5 * a.rms);
      for (size_t i = 0; i < dims[input]; ++i) EXPECT_NEAR(a.max[i], b.max[i], 1e-4 * a.max[i] + 1e-6);
    }
  }
}

TEST_F(LinearInputsTest, Refuses) {
  EXPECT_EQ(MeasureLinearInputs(model_, {}, {}).status().code(), StatusCode::kInvalidArgument);
  const std::vector<int32_t> unknown = {1, 97}, ids(20, 1);
  EXPECT_EQ(MeasureLinearInputs(model_, unknown, {}).status().code(), StatusCode::kInvalidArgument);
  int64_t done = 0;
  const auto stop = [&](const Progress& progress) { return (done = progress.done) < 8; };
  EXPECT_EQ(MeasureLinearInputs(model_, ids, {.chunk = 4}, stop).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(done, 8);
}

}  // namespace
}  // namespace duo
