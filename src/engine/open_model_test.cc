// Opening checkpoint directories: what is right opens, what is wrong is refused with a sentence.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/temp_dir_for_test.h"
#include "checkpoint/safetensors.h"
#include "duo/model.h"
#include "duo/session.h"

namespace duo {
namespace {

/// A directory with a one-layer model whose parts a test may change before writing it.
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
    Rng rng(1);
    std::vector<std::vector<float>> data;
    std::vector<safetensors::Tensor> tensors;
    for (const auto& entry : shapes) {
      int64_t n = 1;
      for (const int64_t d : entry.second) n *= d;
      data.emplace_back();
      for (int64_t i = 0; i < n; ++i) data.back().push_back(static_cast<float>(rng.Normal()));
    }
    size_t i = 0;
    for (const auto& entry : shapes) {
      tensors.push_back({entry.first, safetensors::Type::kF32, entry.second, data[i++].data()});
    }
    EXPECT_TRUE(safetensors::WriteSafetensors(dir_.file("model.safetensors"), tensors).ok());
    return dir_.path();
  }

  Json config;
  std::map<std::string, std::vector<int64_t>> shapes;

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
  EXPECT_EQ(model->mapped_bytes(), model->weights_bytes() - 4u * 16 * 3) << "matrices are used where they lie";
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

TEST(OpenModel, RefusesABiasTheConfigDoesNotAnnounce) {
  TinyCheckpoint checkpoint;
  checkpoint.shapes["model.layers.0.self_attn.q_proj.bias"] = {16};
  const Status status = OpenStatus(&checkpoint);
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_NE(status.message().find("q_proj.bias"), std::string::npos);
}

TEST(OpenModel, RefusesMoreLayersThanTheConfigHas) {
  TinyCheckpoint checkpoint;
  checkpoint.shapes["model.layers.1.input_layernorm.weight"] = {16};
  EXPECT_NE(OpenStatus(&checkpoint).message().find("num_hidden_layers"), std::string::npos);
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
