// Opens checkpoint directories. Good ones open, and bad ones are refused with a sentence.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/temp_dir_for_test.h"
#include "checkpoint/safetensors.h"
#include "duo/key_outliers.h"
#include "duo/model.h"
#include "duo/session.h"

namespace duo {
namespace {

/// A directory with a one-layer model. A test may change parts of it before it is written.
class TinyCheckpoint {
 public:
  TinyCheckpoint() {
    config = {{"model_type", "llama"},        {"vocab_size", 20},       {"hidden_size", 16},
              {"intermediate_size", 24},      {"num_hidden_layers", 1}, {"num_attention_heads", 4},
              {"num_key_value_heads", 2},     {"rms_norm_eps", 1e-5},   {"max_position_embeddings", 64},
              {"tie_word_embeddings", false}, {"hidden_act", "silu"},   {"torch_dtype", "float32"}};
    shapes = {{"model.embed_tokens.weight", {20, 16}},
              {"lm_head.weight", {20, 16}},
              {"model.norm.weight", {16}},
              {"model.layers.0.input_layernorm.weight", {16}},
              {"model.layers.0.post_attention_layernorm.weight", {16}},
              {"model.layers.0.self_attn.q_proj.weight", {16, 16}},
              {"model.layers.0.self_attn.k_proj.weight", {8, 16}},
              {"model.layers.0.self_attn.v_proj.weight", {8, 16}},
              {"model.layers.0.self_attn.o_proj.weight", {16, 16}},
              {"model.layers.0.mlp.gate_proj.weight", {24, 16}},
              {"model.layers.0.mlp.up_proj.weight", {24, 16}},
              {"model.layers.0.mlp.down_proj.weight", {16, 24}}};
  }

  const std::string& Write() {
    EXPECT_TRUE(WriteFileAtomic(dir_.file("config.json"), config.dump()).ok());
    std::vector<std::vector<float>> data;
    std::vector<safetensors::Tensor> tensors;
    for (const auto& entry : shapes) {
      // A tensor's values follow from its name, so that checkpoints differ only where a test says so.
      const std::string& name = entry.first;
      Rng rng(std::hash<std::string>{}(name.starts_with("model.") ? name.substr(std::strlen("model.")) : name));
      int64_t n = 1;
      for (const int64_t d : entry.second) n *= d;
      data.emplace_back();
      for (int64_t i = 0; i < n; ++i) data.back().push_back(static_cast<float>(rng.Normal()));
    }
    const auto data_of = [&](const std::string& name) -> std::vector<float>& {
      return data[std::distance(shapes.begin(), shapes.find(name))];
    };
    for (const auto& [name, original] : copies) data_of(name) = data_of(original);
    for (const auto& [name, own] : values) data_of(name) = own;
    for (const auto& entry : shapes) {
      tensors.push_back({entry.first, safetensors::Type::kF32, entry.second, data_of(entry.first).data(), {}});
    }
    EXPECT_TRUE(safetensors::WriteSafetensors(dir_.file("model.safetensors"), tensors).ok());
    return dir_.path();
  }

  Json config;
  std::map<std::string, std::vector<int64_t>> shapes;
  std::map<std::string, std::string> copies;  // tensor -> the tensor whose values it has
  std::map<std::string, std::vector<float>> values;

 private:
  TempDir dir_;
};

BackendPtr TestBackend() { return std::move(CreateBackend({.device = Device::kCpu, .n_threads = 1}).value()); }

Status OpenStatus(TinyCheckpoint* checkpoint) {
  const BackendPtr backend = TestBackend();
  return Model::Open(checkpoint->Write(), backend.get()).status();
}

TEST(OpenModel, OpensAndRuns) {
  TinyCheckpoint checkpoint;
  const BackendPtr backend = TestBackend();
  auto model = Model::Open(checkpoint.Write(), backend.get());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model->config().n_parameters(), 2 * 320 + 16 + 2 * 16 + 2 * 256 + 2 * 128 + 3 * 384);
  EXPECT_EQ(model->weights_bytes(), 4u * static_cast<uint64_t>(model->config().n_parameters()));
  EXPECT_EQ(model->mapped_bytes(), model->weights_bytes() - 4u * 16 * 3) << "matrices are used from the mapping";
}

TEST(OpenModel, NamesAMissingTensor) {
  TinyCheckpoint checkpoint;
  checkpoint.shapes.erase("model.layers.0.self_attn.k_proj.weight");
  const Status status = OpenStatus(&checkpoint);
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find("model.layers.0.self_attn.k_proj.weight"), std::string::npos) << status.message();
}

TEST(OpenModel, NamesAShapeAtOddsWithTheConfig) {
  TinyCheckpoint checkpoint;
  checkpoint.config["num_key_value_heads"] = 4;
  const Status status = OpenStatus(&checkpoint);
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_NE(status.message().find("self_attn.k_proj.weight: shape [8, 16], expected [16, 16]"), std::string::npos)
      << status.message();
}

TEST(OpenModel, NamesAVectorOfTheWrongLength) {
  TinyCheckpoint checkpoint;
  checkpoint.shapes["model.norm.weight"] = {17};
  EXPECT_NE(OpenStatus(&checkpoint).message().find("model.norm.weight: shape [17], expected [16]"), std::string::npos);
}

TEST(OpenModel, RefusesTensorsOfTheModelThatTheConfigDoesNotAnnounce) {
  const std::string layer = "model.layers.0.";
  const std::pair<std::string, std::string> unknown[] = {
      {layer + "self_attn.q_proj.bias", "attention_bias"},
      {layer + "self_attn.o_proj.bias", "attention_bias"},
      {layer + "mlp.down_proj.bias", "mlp_bias"},
      {layer + "self_attn.q_norm.weight", "model_type qwen3"},
      {layer + "self_attn.query_layernorm.weight", "a llama model has no such tensor"},
      {layer + "input_layernorm.bias", "a llama model has no such tensor"},
      {layer + "self_attn.q_proj.lora_A.weight", "a LoRA adapter must be merged into the weights"},
      {"model.layers.1.input_layernorm.weight", "num_hidden_layers 1"},
      {"model.layers.1.mlp.gate_proj.weight", "num_hidden_layers 1"},
      {"model.norm.bias", "a llama model has no such tensor"},
      {"lm_head.bias", "a llama model has no such tensor"}};
  for (const auto& [name, reason] : unknown) {
    TinyCheckpoint checkpoint;
    checkpoint.shapes[name] = {16};
    const Status status = OpenStatus(&checkpoint);
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << name;
    EXPECT_NE(status.message().find(name + ": the file has this tensor, but"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("(" + reason + ")"), std::string::npos) << status.message();
  }
}

TEST(OpenModel, TablesAndTensorsOfOthersAreLeftOut) {
  TinyCheckpoint checkpoint;
  for (const char* name : {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq",
                           "model.embed_tokens.position_ids", "v_head.summary.weight"}) {
    checkpoint.shapes[name] = {2};
  }
  const Status status = OpenStatus(&checkpoint);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(OpenModel, WantsTheBiasesTheConfigAnnounces) {
  TinyCheckpoint checkpoint;
  checkpoint.config["attention_bias"] = true;
  EXPECT_NE(OpenStatus(&checkpoint).message().find("q_proj.bias"), std::string::npos);
}

TEST(OpenModel, TiedEmbeddingsNeedNoHead) {
  TinyCheckpoint checkpoint;
  checkpoint.shapes.erase("lm_head.weight");
  EXPECT_NE(OpenStatus(&checkpoint).message().find("lm_head.weight"), std::string::npos);
  checkpoint.config["tie_word_embeddings"] = true;
  EXPECT_TRUE(OpenStatus(&checkpoint).ok());
}

/// The logits after one token.
std::vector<float> Logits(TinyCheckpoint* checkpoint, ModelConfig* config, WeightType weights = WeightType::kNative) {
  const BackendPtr backend = TestBackend();
  auto model = Model::Open(checkpoint->Write(), backend.get(), {.weights = weights, .progress = {}});
  EXPECT_TRUE(model.ok()) << model.status().message();
  *config = model->config();
  SessionOptions options;
  options.compute = ComputeType::kF32;
  options.kv_type = KvType::kF32;
  auto session = Session::Create(*model, options);
  EXPECT_TRUE(session->Prefill(std::vector<int32_t>{3}).ok());
  return {session->logits().begin(), session->logits().end()};
}

// As in transformers 5, a stored head that differs from the embedding is used (fine-tunes that train the head).
TEST(OpenModel, ATiedModelWithAnotherHeadUsesThatHead) {
  for (const WeightType weights : {WeightType::kNative, WeightType::kInt8}) {
    TinyCheckpoint untied, tied;
    tied.config["tie_word_embeddings"] = true;
    ModelConfig config;
    const std::vector<float> expected = Logits(&untied, &config, weights);
    EXPECT_TRUE(config.notes.empty());
    EXPECT_EQ(Logits(&tied, &config, weights), expected);
    EXPECT_FALSE(config.tied_embeddings);
    ASSERT_EQ(config.notes.size(), 1u);
    EXPECT_NE(config.notes[0].find("lm_head.weight: differs from the embedding"), std::string::npos) << config.notes[0];
  }
}

TEST(OpenModel, ATiedModelNeedsOneOfItsTwoMatrices) {
  TinyCheckpoint both, embedding, head;
  for (TinyCheckpoint* checkpoint : {&both, &embedding, &head}) checkpoint->config["tie_word_embeddings"] = true;
  both.copies["model.embed_tokens.weight"] = "lm_head.weight";
  head.shapes.erase("model.embed_tokens.weight");
  embedding.shapes.erase("lm_head.weight");
  ModelConfig config;
  const std::vector<float> expected = Logits(&both, &config);
  EXPECT_TRUE(config.tied_embeddings && config.notes.empty());
  EXPECT_EQ(Logits(&head, &config), expected);
  EXPECT_TRUE(config.tied_embeddings && config.notes.empty());
  EXPECT_NE(Logits(&embedding, &config), expected);
  EXPECT_TRUE(config.tied_embeddings && config.notes.empty());
}

TEST(OpenModel, NamesWithoutThePrefixOpen) {
  TinyCheckpoint plain, bare;
  plain.config["tie_word_embeddings"] = bare.config["tie_word_embeddings"] = true;
  for (TinyCheckpoint* checkpoint : {&plain, &bare}) checkpoint->shapes.erase("lm_head.weight");
  const auto shapes = std::exchange(bare.shapes, {});
  for (const auto& [name, shape] : shapes) bare.shapes[name.substr(std::strlen("model."))] = shape;
  ModelConfig config;
  EXPECT_EQ(Logits(&bare, &config), Logits(&plain, &config));
}

/// The outlier that is found when the model is opened, for each type of weights.
std::vector<KeyOutlier> KeyOutliersOf(TinyCheckpoint* checkpoint) {
  const BackendPtr backend = TestBackend();
  std::vector<KeyOutlier> found;
  for (const WeightType type : {WeightType::kNative, WeightType::kInt8, WeightType::kInt4}) {
    auto model = Model::Open(checkpoint->Write(), backend.get(), {.weights = type, .progress = {}});
    EXPECT_TRUE(model.ok()) << model.status().message();
    const auto largest = LargestKeyOutlier(*model);
    EXPECT_TRUE(largest.ok()) << largest.status().message();
    found.push_back(*largest);
  }
  return found;
}

const std::string kAttention = "model.layers.0.self_attn.";

/// Keys have size 6 when nothing is added to them: weights are 3/4, and the norm doubles 16 inputs of size 1.
void MakeKeysOfSizeSix(TinyCheckpoint* checkpoint) {
  checkpoint->values["model.layers.0.input_layernorm.weight"] = std::vector<float>(16, 2.0f);
  std::vector<float> weights(8 * 16, 0.75f);
  for (size_t i = 0; i < weights.size(); i += 3) weights[i] = -0.75f;
  checkpoint->values[kAttention + "k_proj.weight"] = weights;
}

TEST(KeyOutliers, ABiasIsMeasuredByTheOtherChannelsOfItsHead) {
  TinyCheckpoint checkpoint;
  MakeKeysOfSizeSix(&checkpoint);
  checkpoint.config["model_type"] = "qwen2";
  checkpoint.shapes[kAttention + "q_proj.bias"] = {16};
  checkpoint.shapes[kAttention + "k_proj.bias"] = checkpoint.shapes[kAttention + "v_proj.bias"] = {8};
  checkpoint.values[kAttention + "k_proj.bias"] = {300, 0, 0, 0, 0, -600, 0, 1};
  for (const KeyOutlier& found : KeyOutliersOf(&checkpoint)) {
    EXPECT_EQ(found.layer, 0);
    EXPECT_EQ(found.kv_head, 1);
    EXPECT_NEAR(found.largest, 600, 6);
    EXPECT_NEAR(found.others, 6, 2) << "16 random inputs";
    EXPECT_NEAR(found.ratio(), 100, 40);
  }
}

TEST(KeyOutliers, AWeightOfTheNormIsMeasuredByTheOtherChannelsOfItsHead) {
  TinyCheckpoint checkpoint;
  MakeKeysOfSizeSix(&checkpoint);
  checkpoint.config.update({{"model_type", "qwen3"}, {"head_dim", 4}});
  for (const char* norm : {"q_norm.weight", "k_norm.weight"}) checkpoint.shapes[kAttention + norm] = {4};
  checkpoint.values[kAttention + "k_norm.weight"] = {2, 2, 200, 2};
  for (const KeyOutlier& found : KeyOutliersOf(&checkpoint)) {
    EXPECT_EQ(found.layer, 0);
    EXPECT_NEAR(found.largest, 200, 70) << "the norm scales channels of size 6 to size 1";
    EXPECT_NEAR(found.others, 2, 0.7);
    EXPECT_NEAR(found.ratio(), 100, 60);
  }
  checkpoint.values[kAttention + "k_norm.weight"] = {200, 200, 200, 200};
  for (const KeyOutlier& found : KeyOutliersOf(&checkpoint)) EXPECT_LT(found.ratio(), 2) << "there is no outlier";
}

TEST(KeyOutliers, RowsOfTheMatrixCountToo) {
  TinyCheckpoint checkpoint;
  MakeKeysOfSizeSix(&checkpoint);
  for (const KeyOutlier& found : KeyOutliersOf(&checkpoint)) EXPECT_LT(found.ratio(), 2);
  for (size_t i = 0; i < 16; ++i) checkpoint.values[kAttention + "k_proj.weight"][2 * 16 + i] *= 100;
  for (const KeyOutlier& found : KeyOutliersOf(&checkpoint)) {
    EXPECT_EQ(found.kv_head, 0);
    EXPECT_NEAR(found.ratio(), 100, 40);
  }
}

TEST(KeyOutliers, NanStandsOutFromNothing) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const BackendPtr backend = TestBackend();
  for (const size_t n_bad : {1, 8 * 16}) {
    TinyCheckpoint checkpoint;
    checkpoint.values[kAttention + "k_proj.weight"] = std::vector<float>(8 * 16, 1.0f);
    std::fill_n(checkpoint.values[kAttention + "k_proj.weight"].begin(), n_bad, nan);
    auto model = Model::Open(checkpoint.Write(), backend.get());
    ASSERT_TRUE(model.ok()) << model.status().message();
    EXPECT_LT(LargestKeyOutlier(*model)->ratio(), 2);
  }
}

TEST(OpenModel, AWindowLimitsTheContextOfSessions) {
  TinyCheckpoint checkpoint;
  checkpoint.config.update({{"model_type", "mistral"}, {"sliding_window", 48}});
  const BackendPtr backend = TestBackend();
  auto model = Model::Open(checkpoint.Write(), backend.get());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model->config().ContextFor(0), 48);
  auto session = Session::Create(*model, {});
  ASSERT_TRUE(session.ok()) << session.status().message();
  EXPECT_EQ(session->options().max_context, 48);
  const Status full = session->CheckFits(49);
  EXPECT_NE(full.message().find("the context of 48 tokens; this model does not allow more (sliding_window 48)"),
            std::string::npos)
      << full.message();
  SessionOptions longer;
  longer.max_context = 49;
  const Status status = Session::Create(*model, longer).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("at most 48 for this model, whose config.json has sliding_window 48"),
            std::string::npos)
      << status.message();
}

TEST(OpenModel, YarnStretchesTheContextOfSessions) {
  TinyCheckpoint checkpoint;
  checkpoint.config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}};
  const BackendPtr backend = TestBackend();
  auto model = Model::Open(checkpoint.Write(), backend.get());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(Session::Create(*model, {})->options().max_context, 256);
}

TEST(OpenModel, DynamicRopeIsRefusedBeyondTheTrainedLength) {
  TinyCheckpoint checkpoint;
  checkpoint.config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 4.0}};
  const BackendPtr backend = TestBackend();
  auto model = Model::Open(checkpoint.Write(), backend.get());
  ASSERT_TRUE(model.ok()) << model.status().message();
  SessionOptions options;
  options.max_context = 64;
  EXPECT_TRUE(Session::Create(*model, options).ok());
  options.max_context = 65;
  const Status status = Session::Create(*model, options).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("64"), std::string::npos) << status.message();
}

TEST(OpenModel, NamesWhatIsMissingInADirectory) {
  const BackendPtr backend = TestBackend();
  const Status status = Model::Open("/nonexistent/model", backend.get()).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find("/nonexistent/model"), std::string::npos);
}

}  // namespace
}  // namespace duo
