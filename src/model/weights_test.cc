// Tests of opening checkpoints, and of quantising them while opening.
#include "model/weights.h"

#include <string>
#include <vector>

#include "model/tiny_model_for_test.h"

namespace duo {
namespace {

constexpr WeightType kQuantised[] = {WeightType::kInt8, WeightType::kInt4};

class WeightsTest : public TinyModelTest {};

TEST_F(WeightsTest, CountsParametersAndBytes) {
  for (const TinyCheckpoint& checkpoint :
       {Made("llama", Json::object()), WithBiases(), Made("qwen2", {{"torch_dtype", "bfloat16"}}),
        Made("qwen3", {{"tie_word_embeddings", true}, {"torch_dtype", "float16"}})}) {
    uint64_t n_matrix = 0, n_vector = 0;
    for (const auto& [name, tensor] : checkpoint.tensors) {
      (tensor.shape.size() == 2 ? n_matrix : n_vector) += tensor.values.size();
    }
    const Model model = Opened(checkpoint);
    EXPECT_EQ(static_cast<uint64_t>(model.config().n_parameters()), n_matrix + n_vector);
    const uint64_t element = checkpoint.config["torch_dtype"] == "float32" ? 4 : 2;
    EXPECT_EQ(model.mapped_bytes(), element * n_matrix) << "matrices stay in the file";
    EXPECT_EQ(model.weights_bytes(), element * n_matrix + 4 * n_vector) << "norms and biases are floats";
    EXPECT_EQ(model.config().WeightsBytes(), 2 * (n_matrix + n_vector));
    for (const WeightType type : kQuantised) {
      const Model quantised = Opened(checkpoint, type);
      EXPECT_EQ(quantised.mapped_bytes(), 0u);
      EXPECT_EQ(quantised.config().WeightsBytes(), quantised.weights_bytes() - 2 * n_vector);
      EXPECT_LT(quantised.weights_bytes(), model.weights_bytes());
    }
    ModelConfig shape = model.config();
    for (const WeightType type : {WeightType::kNative, WeightType::kInt8, WeightType::kInt4}) {
      const Model random = Model::Random(shape, 0, 1, backend_.get(), {.weights = type, .progress = {}}).value();
      ModelConfig same = shape;
      same.weights = type;
      EXPECT_EQ(random.weights_bytes(), same.WeightsBytes() + 2 * n_vector);
    }
  }
}

TEST_F(WeightsTest, TakesItsNameFromTheFolderOrTheFile) {
  const TinyCheckpoint checkpoint = Made("llama", Json::object());
  const std::string dir = out_.path() + "/some.model-1";
  std::filesystem::create_directories(dir);
  checkpoint.Write(dir);
  for (const std::string& path : {dir, dir + "/", dir + "/."}) {
    EXPECT_EQ(LoadModelConfig(path).value().name, "some.model-1") << path;
  }
  std::filesystem::copy_file(dir + "/config.json", dir + "/other.json");
  EXPECT_EQ(LoadModelConfig(dir + "/other.json").value().name, "other");
}

TEST_F(WeightsTest, NamesTheTensorThatIsMissing) {
  const TinyCheckpoint whole = WithBiases();
  for (const auto& entry : whole.tensors) {
    TinyCheckpoint checkpoint = whole;
    checkpoint.tensors.erase(entry.first);
    const Status status = Open(checkpoint).status();
    EXPECT_FALSE(status.ok()) << entry.first;
    EXPECT_NE(status.message().find(entry.first), std::string::npos) << status.message();
  }
}

TEST_F(WeightsTest, NamesTheTensorOfAnotherShape) {
  const TinyCheckpoint whole = WithBiases();
  for (const auto& entry : whole.tensors) {
    TinyCheckpoint checkpoint = whole;
    TinyCheckpoint::Tensor& tensor = checkpoint.tensors[entry.first];
    const auto refused = [&](std::vector<int64_t> shape) {
      tensor.shape = std::move(shape);
      int64_t n = 1;
      for (const int64_t d : tensor.shape) n *= d;
      tensor.values.resize(n);
      const Status status = Open(checkpoint).status();
      EXPECT_EQ(status.code(), StatusCode::kCorrupt) << entry.first;
      EXPECT_NE(status.message().find(entry.first), std::string::npos) << status.message();
    };
    const std::vector<int64_t> right = tensor.shape;
    std::vector<int64_t> more_rows = right;
    ++more_rows[0];
    refused(more_rows);
    if (right.size() == 1) {
      refused({1, right[0]});
      continue;
    }
    refused({right[0], right[1] - 1});
    refused({right[0] * right[1]});
  }
}

TEST_F(WeightsTest, RefusesWhatTheConfigDoesNotAnnounce) {
  const std::string attn = "model.layers.1.self_attn.", mlp = "model.layers.1.mlp.";
  const std::vector<std::pair<std::string, int64_t>> unannounced = {
      {attn + "q_proj.bias", 32},   {attn + "k_proj.bias", 16},
      {attn + "v_proj.bias", 16},   {attn + "o_proj.bias", 24},
      {mlp + "gate_proj.bias", 40}, {mlp + "up_proj.bias", 40},
      {mlp + "down_proj.bias", 24}, {attn + "q_norm.weight", 8},
      {attn + "k_norm.weight", 8},  {"model.layers.2.input_layernorm.weight", 24}};
  for (const auto& [name, n] : unannounced) {
    TinyCheckpoint checkpoint = Made("llama", Json::object());
    checkpoint.tensors[name] = {{n}, std::vector<float>(n, 0.5f)};
    const Status status = Open(checkpoint).status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << name;
    EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
    EXPECT_EQ(status.message().find("num_hidden_layers 2") != std::string::npos, name.starts_with("model.layers.2."));
  }
}

TEST_F(WeightsTest, QuantisingTellsOfEachMatrixAndCanBeStopped) {
  for (const bool tied : {false, true}) {
    const TinyCheckpoint checkpoint = Made("llama", {{"tie_word_embeddings", tied}});
    const int64_t total = 7 * 2 + (tied ? 1 : 2);
    std::vector<int64_t> done;
    const auto count = [&](const Progress& progress) {
      EXPECT_EQ(progress.total, total);
      done.push_back(progress.done);
      return progress.done < 5;
    };
    EXPECT_EQ(Open(checkpoint, {.weights = WeightType::kInt8, .progress = count}).status().code(),
              StatusCode::kCancelled);
    EXPECT_EQ(done, (std::vector<int64_t>{1, 2, 3, 4, 5}));
    int64_t last = 0;
    const auto watch = [&](const Progress& progress) {
      last = progress.done;
      return true;
    };
    ASSERT_TRUE(Open(checkpoint, {.weights = WeightType::kInt4, .progress = watch}).ok());
    EXPECT_EQ(last, total);
  }
}

TEST_F(WeightsTest, QuantisedWeightsStayCloseToTheirs) {
  const TinyCheckpoint checkpoint = WithBiases();
  const std::vector<float> exact = Logits(Opened(checkpoint));
  const double int8 = Distance(Logits(Opened(checkpoint, WeightType::kInt8)), exact);
  EXPECT_LT(int8, 0.03);
  EXPECT_GT(int8, 0);
  EXPECT_LT(Distance(Logits(Opened(checkpoint, WeightType::kInt4)), exact), 0.4);
}

}  // namespace
}  // namespace duo
