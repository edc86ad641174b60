#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "model/activations.h"
#include "model/fingerprint.h"
#include "model/quantize_matrix.h"
#include "model/rope.h"
#include "model/tiny_config_for_test.h"
#include "model/weights.h"

namespace duo {
namespace {

TEST(Rope, DefaultAndLinear) {
  RopeConfig rope;
  rope.theta = 10000;
  const std::vector<double> base = RopeInvFreq(rope, 8);
  ASSERT_EQ(base.size(), 4u);
  EXPECT_DOUBLE_EQ(base[0], 1.0);
  EXPECT_DOUBLE_EQ(base[1], 0.1);
  EXPECT_NEAR(base[3], 0.001, 1e-15);
  rope.type = RopeType::kDynamic;
  EXPECT_EQ(RopeInvFreq(rope, 8), base) << "dynamic equals default up to the trained length";
  rope.type = RopeType::kLinear;
  rope.factor = 4;
  const std::vector<double> linear = RopeInvFreq(rope, 8);
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(linear[i], base[i] / 4);
}

// Llama 3.1's numbers: theta 500000, factor 8, low 1, high 4, trained on 8192. Computed by hand for the three regions.
TEST(Rope, Llama3KeepsHighFrequenciesAndDividesLowOnes) {
  RopeConfig rope;
  rope.theta = 500000;
  const std::vector<double> base = RopeInvFreq(rope, 128);
  rope.type = RopeType::kLlama3;
  rope.factor = 8;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  rope.original_max_position_embeddings = 8192;
  const std::vector<double> scaled = RopeInvFreq(rope, 128);
  int kept = 0, divided = 0, blended = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    const double wavelength = 2 * M_PI / base[i];
    if (wavelength < 2048) {
      EXPECT_DOUBLE_EQ(scaled[i], base[i]);
      ++kept;
    } else if (wavelength > 8192) {
      EXPECT_DOUBLE_EQ(scaled[i], base[i] / 8);
      ++divided;
    } else {
      EXPECT_LT(scaled[i], base[i]);
      EXPECT_GT(scaled[i], base[i] / 8);
      ++blended;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(divided, 0);
  EXPECT_GT(blended, 0);
}

// Qwen2.5's yarn: theta 1e6, factor 4, trained on 32768, head_dim 128, beta 32 and 1. The correction dimensions are
// 128 ln(32768 / (turns 2 pi)) / (2 ln 1e6): 23.6 and 39.6, rounded outwards to 23 and 40.
TEST(Rope, YarnRampsBetweenItsCorrectionDimensions) {
  RopeConfig rope;
  rope.theta = 1e6;
  const std::vector<double> base = RopeInvFreq(rope, 128);
  rope.type = RopeType::kYarn;
  rope.factor = 4;
  rope.original_max_position_embeddings = 32768;
  const std::vector<double> scaled = RopeInvFreq(rope, 128);
  for (size_t i = 0; i <= 23; ++i) EXPECT_DOUBLE_EQ(scaled[i], base[i]) << i;
  for (size_t i = 40; i < 64; ++i) EXPECT_DOUBLE_EQ(scaled[i], base[i] / 4) << i;
  const double ramp = (30.0 - 23) / (40 - 23);
  EXPECT_NEAR(scaled[30], base[30] * (1 - ramp) + base[30] / 4 * ramp, 1e-18);
}

TEST(RandomModel, HasTheAskedShapeAndBytes) {
  auto backend = CreateBackend({.device = Device::kCpu, .n_threads = 1});
  ASSERT_TRUE(backend.ok());
  const ModelConfig config = TinyConfig();
  auto model = Model::Random(config, 2, 1, backend->get());
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(model->config().n_layers, 2);
  ModelConfig two = config;
  two.n_layers = 2;
  EXPECT_NEAR(static_cast<double>(model->weights_bytes()), 2.0 * static_cast<double>(two.n_parameters()),
              2.0 * 64 * 20);
  EXPECT_EQ(model->mapped_bytes(), 0u);
  EXPECT_FALSE(Model::Random(config, config.n_layers + 1, 1, backend->get()).ok());
  EXPECT_FALSE(Model::Random(config, -1, 1, backend->get()).ok());
}

TEST(CallBounds, AreThoseOfTheLargestProduct) {
  const ModelConfig config = TinyConfig();  // hidden size 48, MLP of 80, 97 tokens in the vocabulary
  const CallBounds few = CallBoundsOf(config, 5, ComputeType::kF32);
  EXPECT_EQ(few.widest_input, 80);
  EXPECT_EQ(few.max_outputs, 5 * 97) << "logits of every token";
  EXPECT_EQ(few.largest_matrix, 48 * 97) << "the vocabulary's";
  const CallBounds many = CallBoundsOf(config, 1000, ComputeType::kF32);
  EXPECT_EQ(many.max_outputs, 1000 * 80) << "logits are computed for few tokens at a time";
}

TEST(QuantizeMatrix, NamesTheRowThatHasNoNumbers) {
  constexpr int64_t kRows = 40, kColumns = 64;
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
    for (const float bad : {INFINITY, -INFINITY, std::nanf("")}) {
      std::vector<float> values(kRows * kColumns, 0.5f);
      const MatrixRows rows = RowsOf({.data = values.data(), .dtype = DType::kF32, .n_out = kRows, .n_in = kColumns});
      EXPECT_TRUE(QuantizeMatrix(kRows, kColumns, rows, type, 2).ok());
      values[37 * kColumns + 5] = values[35 * kColumns + 63] = bad;
      const Status status = QuantizeMatrix(kRows, kColumns, rows, type, 2).status();
      EXPECT_EQ(status.code(), StatusCode::kCorrupt);
      EXPECT_EQ(status.message(), "row 35 has a NaN or an infinity");
    }
  }
}

TEST(Fingerprint, TellsModelsApart) {
  const auto backend = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
  const auto make = [&](const ModelConfig& config, WeightType type) {
    return Model::Weights::FromRandom(config, 5, backend.get(), {.weights = type, .progress = {}}).value();
  };
  const auto model = make(TinyConfig(), WeightType::kNative);
  const std::string plain = ModelFingerprint(*model);
  EXPECT_EQ(plain.size(), 16u);
  EXPECT_EQ(ModelFingerprint(*make(TinyConfig(), WeightType::kNative)), plain);

  std::set<std::string> seen = {plain};
  EXPECT_TRUE(seen.insert(ModelFingerprint(*make(TinyConfig(), WeightType::kInt8))).second) << "quantised";
  EXPECT_TRUE(seen.insert(ModelFingerprint(*make(TinyConfig(), WeightType::kInt4))).second) << "quantised";
  ModelConfig scaled = TinyConfig();
  scaled.inv_freq.back() /= 8;
  EXPECT_TRUE(seen.insert(ModelFingerprint(*make(scaled, WeightType::kNative))).second) << "RoPE";
  // It replaces several vectors, so it must be as long as the longest: a bias of all query heads.
  const int64_t longest = std::max<int64_t>(model->config.hidden_size, model->layers[2].q.n_out);
  const std::vector<float> other(longest, 0.5f);
  for (const float** vector : {&model->final_norm, &model->layers[1].mlp_norm, &model->layers[2].q_bias}) {
    const float* const own = std::exchange(*vector, other.data());
    EXPECT_TRUE(seen.insert(ModelFingerprint(*model)).second) << "norms and biases";
    *vector = own;
  }
  EXPECT_EQ(ModelFingerprint(*model), plain);
}

TEST(Fingerprint, ReadsMatricesFromTheirFirstByteToTheirLast) {
  constexpr size_t kPage = 4096;
  const auto backend = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
  for (const WeightType type : {WeightType::kNative, WeightType::kInt8, WeightType::kInt4}) {
    ModelConfig config = TinyConfig();
    config.intermediate_size = 4096;
    const auto model = Model::Weights::FromRandom(config, 5, backend.get(), {.weights = type, .progress = {}}).value();
    const std::string plain = ModelFingerprint(*model);
    MatrixView& down = model->layers[1].down;
    const size_t scales = down.scale == nullptr ? 0 : down.n_out * sizeof(float);
    const size_t size = down.bytes() - scales;
    ASSERT_GT(size, 20 * kPage) << "larger than the part that is hashed";
    const auto* const bytes = static_cast<const uint8_t*>(down.data);
    std::vector<uint8_t> copy(bytes, bytes + size);
    down.data = copy.data();
    EXPECT_EQ(ModelFingerprint(*model), plain);
    const auto changed = [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) copy[i] ^= 1;
      const std::string other = ModelFingerprint(*model);
      for (size_t i = begin; i < end; ++i) copy[i] ^= 1;
      return other != plain;
    };
    EXPECT_TRUE(changed(kPage, size)) << "a fine-tune with unchanged first rows";
    EXPECT_TRUE(changed(0, 1));
    EXPECT_TRUE(changed(size - 1, size));
    for (size_t begin = 0; begin < size; begin += size / 7) {
      EXPECT_TRUE(changed(begin, std::min(size, begin + size / 7))) << begin << " of " << size;
    }
  }
}

}  // namespace
}  // namespace duo
