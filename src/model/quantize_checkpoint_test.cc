// Tests of quantising a checkpoint into another folder, smoothed or not.
#include "duo/quantize.h"

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "model/tiny_model_for_test.h"

namespace duo {
namespace {

constexpr WeightType kQuantised[] = {WeightType::kInt8, WeightType::kInt4};

class QuantizeCheckpointTest : public TinyModelTest {};

/// Checks that every matrix of a checkpoint has a report, and that the report agrees with its numbers.
void CheckReport(const TinyCheckpoint& checkpoint, WeightType type, const QuantizeReport& report) {
  uint64_t before = 0;
  size_t n_matrices = 0;
  std::map<std::string, MatrixReport> by_name;
  for (const MatrixReport& matrix : report.matrices) by_name[matrix.name] = matrix;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    before += tensor.values.size() * 4;
    if (tensor.shape.size() != 2) continue;
    ++n_matrices;
    ASSERT_TRUE(by_name.contains(name)) << name;
    const bool head = name == "lm_head.weight" || name == "model.embed_tokens.weight";
    EXPECT_EQ(by_name[name].type, head ? WeightType::kInt8 : type) << name;
    double squares = 0, largest = 0;
    for (const float x : tensor.values) {
      squares += double{x} * x;
      largest = std::max(largest, std::fabs(double{x}));
    }
    EXPECT_NEAR(by_name[name].outlier, largest / std::sqrt(squares / tensor.values.size()), 1e-6);
    // The numbers are spread evenly up to the largest, and rounded to steps of 1/127 or about 1/7 of it. The error of
    // rounding is then step / (2 sqrt(3)), and the root mean square of the numbers 1 / sqrt(3): the ratio is step / 2.
    const double step = by_name[name].type == WeightType::kInt8 ? 1.0 / 127 : 1.0 / 7;
    EXPECT_GT(by_name[name].error, 0.3 * step) << name;
    EXPECT_LT(by_name[name].error, 0.7 * step) << name;
  }
  EXPECT_EQ(report.matrices.size(), n_matrices);
  EXPECT_EQ(report.bytes_before, before);
}

TEST_F(QuantizeCheckpointTest, AQuantisedFolderIsWhatQuantisingMeanwhileMakes) {
  for (const bool tied : {false, true}) {
    for (const WeightType type : kQuantised) {
      const TinyCheckpoint checkpoint =
          Made("llama", {{"attention_bias", true}, {"mlp_bias", true}, {"tie_word_embeddings", tied}});
      const std::vector<float> expected = Logits(Opened(checkpoint, type));
      ASSERT_TRUE(WriteFileAtomic(dir_.path() + "/tokenizer_config.json", "{}").ok());
      const std::string out = out_.path() + "/" + WeightTypeName(type) + (tied ? "-tied" : "");
      std::vector<int64_t> done;
      const auto report = QuantizeCheckpoint(dir_.path(), type, {}, out, 2, [&](const Progress& progress) {
        done.push_back(progress.done);
        EXPECT_EQ(progress.total, 14 + (tied ? 1 : 2));
        return true;
      });
      ASSERT_TRUE(report.ok()) << report.status().message();
      CheckReport(checkpoint, type, *report);
      EXPECT_TRUE(report->factors.empty());
      EXPECT_EQ(std::ssize(done), done.back());
      EXPECT_EQ(done.back(), 14 + (tied ? 1 : 2));
      EXPECT_EQ(ReadFile(out + "/tokenizer_config.json", 100).value(), "{}");
      const Model model = Model::Open(out, backend_.get()).value();
      EXPECT_EQ(model.config().weights, type);
      EXPECT_EQ(Logits(model), expected);
      uint64_t n_vector = 0;
      for (const auto& entry : checkpoint.tensors) {
        if (entry.second.shape.size() == 1) n_vector += entry.second.values.size();
      }
      EXPECT_EQ(report->bytes_after, model.weights_bytes()) << "vectors are floats in both";
      EXPECT_EQ(model.mapped_bytes(), model.weights_bytes() - 4 * n_vector);
      const Status again = QuantizeCheckpoint(out, type, {}, out_.path() + "/again", 1).status();
      EXPECT_EQ(again.code(), StatusCode::kInvalidArgument);
      EXPECT_FALSE(Model::Open(out, backend_.get(), {.weights = type, .progress = {}}).ok()) << "already";
    }
  }
}

TEST_F(QuantizeCheckpointTest, QuantisingRefusesPlacesThatHoldAModel) {
  const TinyCheckpoint checkpoint = Made("llama", Json::object());
  checkpoint.Write(dir_.path());
  EXPECT_NE(CheckQuantizeOut(dir_.path(), dir_.path() + "/.").message().find("the model's own directory"),
            std::string::npos);
  EXPECT_TRUE(CheckQuantizeOut(dir_.path(), out_.path()).ok());
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json"}) {
    const std::string out = out_.path() + "/" + name;
    std::filesystem::create_directories(out);
    ASSERT_TRUE(WriteFileAtomic(out + "/" + name, "{}").ok());
    const Status status = QuantizeCheckpoint(dir_.path(), WeightType::kInt8, {}, out, 1).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
  }
  int calls = 0;
  const std::string out = out_.path() + "/stopped";
  const auto stop = [&](const Progress&) { return ++calls < 4; };
  EXPECT_EQ(QuantizeCheckpoint(dir_.path(), WeightType::kInt4, {}, out, 1, stop).status().code(),
            StatusCode::kCancelled);
  EXPECT_FALSE(Model::Open(out, backend_.get()).ok()) << "half a checkpoint must not open";
  TinyCheckpoint infinite = Made("llama", Json::object());
  infinite.tensors["model.layers.1.mlp.up_proj.weight"].values[77] = INFINITY;
  infinite.Write(dir_.path());
  const Status status = QuantizeCheckpoint(dir_.path(), WeightType::kInt8, {}, out_.path() + "/infinite", 1).status();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_NE(status.message().find("model.layers.1.mlp.up_proj.weight"), std::string::npos) << status.message();
}

/// The largest magnitude in column `channel` of several matrices.
float LargestWeight(const TinyCheckpoint& checkpoint, const std::vector<std::string>& matrices, size_t channel) {
  float largest = 0;
  for (const std::string& name : matrices) {
    const TinyCheckpoint::Tensor& w = checkpoint.tensors.at("model.layers.1." + name + ".weight");
    const size_t n_in = w.shape[1];
    for (size_t at = channel; at < w.values.size(); at += n_in) largest = std::max(largest, std::fabs(w.values[at]));
  }
  return largest;
}

class SmoothingTest : public TinyModelTest {
 protected:
  /// Magnitudes of channels that differ by factors of up to 2^12.
  static Smoothing Uneven(double alpha) {
    Smoothing smoothing;
    smoothing.alpha = alpha;
    Rng rng(8);
    for (int i = 0; i < 2; ++i) {
      Smoothing::Layer layer;
      for (const auto& [channels, n] : std::vector<std::pair<std::vector<float>*, int>>{
               {&layer.attention, 24}, {&layer.output, 32}, {&layer.mlp, 24}, {&layer.down, 40}}) {
        for (int d = 0; d < n; ++d) {
          channels->push_back(std::exp2(12 * rng.Uniform() - 6));
        }
      }
      layer.mlp[3] = 0;  // unknown
      smoothing.layers.push_back(std::move(layer));
    }
    return smoothing;
  }
};

TEST_F(SmoothingTest, FactorsAreTheNearestPowersOfTwoOfTheirEquation) {
  const TinyCheckpoint checkpoint = WithBiases();
  checkpoint.Write(dir_.path());
  for (const double alpha : {0.3, 0.5}) {
    const Smoothing smoothing = Uneven(alpha);
    const std::string out = out_.path() + "/" + std::to_string(alpha);
    std::vector<std::string> stages;
    const auto report = QuantizeCheckpoint(dir_.path(), WeightType::kInt8, smoothing, out, 2, [&](const Progress& p) {
      EXPECT_EQ(p.total, p.stage == std::string("smooth") ? 2 : 16);
      stages.emplace_back(std::string(p.stage) + std::to_string(p.done));
      return true;
    });
    ASSERT_TRUE(report.ok()) << report.status().message();
    EXPECT_EQ(stages[0], "smooth1");
    EXPECT_EQ(stages[1], "smooth2");
    EXPECT_EQ(stages[2], "quantize1");
    ASSERT_EQ(report->factors.size(), 2u);
    const Smoothing::Layer& inputs = smoothing.layers[1];
    const Smoothing::Layer& got = report->factors[1];
    const auto expect = [&](const std::vector<float>& x, const std::vector<float>& factors,
                            const std::vector<std::string>& matrices) {
      ASSERT_EQ(x.size(), factors.size());
      for (size_t d = 0; d < x.size(); ++d) {
        const double s = std::pow(x[d], alpha) / std::pow(LargestWeight(checkpoint, matrices, d), 1 - alpha);
        if (x[d] == 0) {
          EXPECT_EQ(factors[d], 1.0f) << matrices[0] << " " << d;
        } else {
          EXPECT_NEAR(std::log2(factors[d]), std::log2(s), 0.5 + 1e-6) << matrices[0] << " " << d;
          EXPECT_EQ(std::log2(factors[d]), std::round(std::log2(factors[d])));
        }
      }
    };
    expect(inputs.attention, got.attention, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
    expect(inputs.mlp, got.mlp, {"mlp.gate_proj", "mlp.up_proj"});
    expect(inputs.down, got.down, {"mlp.down_proj"});
    // The heads of a group share one factor, which is the largest of the group.
    for (size_t kv = 0; kv < 2; ++kv) {
      for (size_t d = 0; d < 8; ++d) {
        float largest = 0;
        for (size_t h = 0; h < 2; ++h) {
          const size_t channel = (kv * 2 + h) * 8 + d;
          const double s = std::pow(inputs.output[channel], alpha) /
                           std::pow(LargestWeight(checkpoint, {"self_attn.o_proj"}, channel), 1 - alpha);
          largest = std::max(largest, static_cast<float>(std::exp2(std::round(std::log2(s)))));
        }
        EXPECT_EQ(got.output[kv * 16 + d], largest);
        EXPECT_EQ(got.output[kv * 16 + 8 + d], largest);
      }
    }
  }
}

// Factors of up to 2^6 are divided out and multiplied in again. If one of them were missing, the logits would be
// completely different.
TEST_F(SmoothingTest, TheModelStaysTheSame) {
  for (const Json& more : {Json{{"attention_bias", true}, {"mlp_bias", true}}, Json{{"torch_dtype", "bfloat16"}}}) {
    const TinyCheckpoint checkpoint = Made("llama", more);
    const std::vector<float> exact = Logits(Opened(checkpoint));
    const std::string out = out_.path() + "/" + std::to_string(more.size());
    const Smoothing smoothing = Uneven(0.3);
    const auto report = QuantizeCheckpoint(dir_.path(), WeightType::kInt8, smoothing, out, 1);
    ASSERT_TRUE(report.ok()) << report.status().message();
    auto model = Model::Open(out, backend_.get());
    ASSERT_TRUE(model.ok()) << model.status().message();
    EXPECT_LT(Distance(Logits(*model), exact), 0.1);
    // Smoothed norms are stored as floats. The final norm is not smoothed and keeps its type.
    const uint64_t saved = checkpoint.config["torch_dtype"] == "bfloat16" ? 2 * TinyCheckpoint::kHidden : 0;
    EXPECT_EQ(report->bytes_after, model->weights_bytes() - saved);
  }
}

TEST_F(SmoothingTest, RefusesAnotherShape) {
  WithBiases().Write(dir_.path());
  const auto refused = [&](auto change, const std::string& word) {
    Smoothing smoothing = Uneven(0.5);
    change(smoothing);
    const Status status = QuantizeCheckpoint(dir_.path(), WeightType::kInt8, smoothing, out_.path() + "/x", 1).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << word;
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  };
  refused([](Smoothing& s) { s.layers.pop_back(); }, "smoothing of 1 layers");
  refused([](Smoothing& s) { s.layers[0].attention.pop_back(); }, "q_proj");
  refused([](Smoothing& s) { s.layers[1].mlp.pop_back(); }, "gate_proj");
  refused([](Smoothing& s) { s.layers[1].down.push_back(1); }, "down_proj");
  refused([](Smoothing& s) { s.layers[1].output.push_back(1); }, "o_proj");
  int calls = 0;
  const auto stop = [&](const Progress&) { return ++calls < 2; };
  EXPECT_EQ(
      QuantizeCheckpoint(dir_.path(), WeightType::kInt8, Uneven(0.5), out_.path() + "/x", 1, stop).status().code(),
      StatusCode::kCancelled);
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace duo
