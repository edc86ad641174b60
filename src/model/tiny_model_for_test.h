// A fixture that opens tiny checkpoints and computes their logits.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/temp_dir_for_test.h"
#include "model/tiny_checkpoint_for_test.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace duo {

/// A tiny checkpoint of a family with more keys in its config, and random weights.
inline TinyCheckpoint Made(const std::string& family, const Json& more) {
  TinyCheckpoint checkpoint(family);
  checkpoint.config.update(more);
  checkpoint.Fill(3);
  return checkpoint;
}

/// A checkpoint with every optional bias.
inline TinyCheckpoint WithBiases() { return Made("llama", {{"attention_bias", true}, {"mlp_bias", true}}); }

/// Opens tiny checkpoints on the CPU.
class TinyModelTest : public testing::Test {
 protected:
  Result<Model> Open(const TinyCheckpoint& checkpoint, const ModelOptions& options = {}) {
    checkpoint.Write(dir_.path());
    return Model::Open(dir_.path(), backend_.get(), options);
  }
  Model Opened(const TinyCheckpoint& checkpoint, WeightType type = WeightType::kNative) {
    auto model = Open(checkpoint, {.weights = type, .progress = {}});
    EXPECT_TRUE(model.ok()) << model.status().message();
    return std::move(*model);
  }
  /// Logits of a few tokens, in floats.
  static std::vector<float> Logits(const Model& model) {
    const std::vector<int32_t> ids = {3, 17, 42, 8, 11, 0, 49};
    KvLayout layout;
    layout.heads = AllRetrieval(2, 2);
    layout.head_dim = TinyCheckpoint::kHeadDim;
    layout.type = KvType::kF32;
    layout.capacity = 16;
    SplitKvCache cache = SplitKvCache::Create(model.backend(), layout).value();
    DuoAttention attention = DuoAttention::Create(model.backend(), layout, 8).value();
    Activations act = Activations::Create(model.backend(), model.config(), 8).value();
    Transformer transformer(model.weights(), ComputeType::kF32);
    EXPECT_TRUE(transformer.Forward(ids, TokenKind::kPrompt, {&cache, &attention, &act}).ok());
    std::vector<float> logits(7 * 50);
    EXPECT_TRUE(transformer.Logits(act, 0, 7, logits.data()).ok());
    return logits;
  }
  static double Distance(const std::vector<float>& a, const std::vector<float>& b) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      worst = std::max(worst, std::fabs(double{a[i]} - b[i]));
      largest = std::max(largest, std::fabs(double{b[i]}));
    }
    return worst / largest;
  }

  TempDir dir_, out_;
  BackendPtr backend_ = CreateBackend({.device = Device::kCpu, .n_threads = 2}).value();
};

}  // namespace duo
