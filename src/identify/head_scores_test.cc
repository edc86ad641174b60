// Tests with a model made by hand, in which the task of every head is known. One induction head looks for the token
// after the last occurrence of the current one. Seven other heads look one to four tokens back. Every method must find
// the induction head.
#include "identify/head_scores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "base/temp_dir_for_test.h"
#include "checkpoint/safetensors.h"
#include "identify/gate_optimizer.h"
#include "identify/teacher_student.h"

namespace duo {
namespace {

constexpr int kVocab = 200, kCode = 36, kHidden = 3 * kCode + 4, kHeads = 4, kDim = 64, kHalf = kDim / 2;
constexpr int kConstant = 3 * kCode;  // a residual dimension that is the same for every token
constexpr double kTheta = 1e8;
constexpr size_t kInduction = 4 + 2;  // layer 1, head 2

// The residual stream is [the token's code | code of the token before | code of the predicted token | constant].
class HandMade {
 public:
  HandMade() {
    Rng rng(21);
    std::vector<float>& embedding = Add("model.embed_tokens.weight", kVocab, kHidden);
    std::vector<float>& head = Add("lm_head.weight", kVocab, kHidden);
    for (int token = 0; token < kVocab; ++token) {
      for (int i = 0; i < kCode; ++i) {
        const float bit = rng.Next() % 2 == 0 ? 1.0f : -1.0f;
        embedding[token * kHidden + i] = bit;
        head[token * kHidden + 2 * kCode + i] = bit;
      }
      embedding[token * kHidden + kConstant] = 6;
    }
    std::fill_n(Add("model.norm.weight", kHidden, 0).begin(), kHidden, 1.0f);
    for (int layer = 0; layer < 2; ++layer) MakeLayer(layer);
  }
  void Write(const TempDir& dir) {
    dir.Write("config.json", R"({"model_type":"llama","architectures":["LlamaForCausalLM"],"hidden_size":112,
      "intermediate_size":8,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":4,"head_dim":64,
      "vocab_size":200,"rms_norm_eps":1e-6,"rope_theta":1e8,"max_position_embeddings":4096,"hidden_act":"silu",
      "tie_word_embeddings":false,"torch_dtype":"float32"})");
    std::vector<safetensors::Tensor> list;
    for (auto& [name, t] : tensors_) {
      std::vector<int64_t> shape = {t.rows};
      if (t.columns != 0) shape.push_back(t.columns);
      list.push_back({name, safetensors::Type::kF32, shape, t.values.data()});
    }
    ASSERT_TRUE(safetensors::WriteSafetensors(dir.file("model.safetensors"), list).ok());
  }

 private:
  struct Matrix {
    int64_t rows, columns;
    std::vector<float> values;
  };
  std::vector<float>& Add(const std::string& name, int64_t rows, int64_t columns) {
    Matrix& t = tensors_[name];
    t = {rows, columns, std::vector<float>(rows * std::max<int64_t>(columns, 1), 0.0f)};
    return t.values;
  }

  void MakeLayer(int layer) {
    const std::string p = "model.layers." + std::to_string(layer) + ".";
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      std::fill_n(Add(p + norm + ".weight", kHidden, 0).begin(), kHidden, 1.0f);
    }
    Add(p + "mlp.gate_proj.weight", 8, kHidden);
    Add(p + "mlp.up_proj.weight", 8, kHidden);
    Add(p + "mlp.down_proj.weight", kHidden, 8);
    auto& q = Add(p + "self_attn.q_proj.weight", kHeads * kDim, kHidden);
    auto& k = Add(p + "self_attn.k_proj.weight", kHeads * kDim, kHidden);
    auto& v = Add(p + "self_attn.v_proj.weight", kHeads * kDim, kHidden);
    auto& o = Add(p + "self_attn.o_proj.weight", kHidden, kHeads * kDim);
    const auto at = [](int row, int column) { return static_cast<size_t>(row * kHidden + column); };
    for (int head = 0; head < kHeads; ++head) {
      const int row = head * kDim;
      if (static_cast<size_t>(layer * kHeads + head) == kInduction) {
        // q = the token's code, k = the code of the token before. Both use pairs that hardly rotate within the text.
        for (int i = 0; i < kCode; ++i) {
          const int d = kHalf - kCode / 2 + i % (kCode / 2) + (i < kCode / 2 ? 0 : kHalf);
          q[at(row + d, i)] = 3;
          k[at(row + d, kCode + i)] = 3;
        }
      } else {
        // q and k are constants whose product is largest at a distance of `back` tokens: every pair contributes
        // cos(w (distance - back)).
        const int back = layer == 0 && head == 0 ? 1 : 1 + head;
        for (int d = 0; d < kHalf; ++d) {
          const double angle = -back * std::pow(kTheta, -2.0 * d / kDim);
          q[at(row + d, kConstant)] = static_cast<float>(3 * std::cos(angle));
          q[at(row + d + kHalf, kConstant)] = static_cast<float>(3 * std::sin(angle));
          k[at(row + d, kConstant)] = 3;
        }
      }
      const bool writes = (layer == 0 && head == 0) || static_cast<size_t>(layer * kHeads + head) == kInduction;
      for (int i = 0; i < kCode; ++i) {
        v[at(row + i, i)] = 1;
        if (writes) o[(kCode * (layer + 1) + i) * kHeads * kDim + row + i] = 1;
      }
    }
  }
  std::map<std::string, Matrix> tensors_;
};

class HandMadeTest : public testing::Test {
 protected:
  HandMadeTest() {
    HandMade().Write(dir);
    backend = CreateBackend({.n_threads = 2}).value();
    Result<Model> opened = Model::Open(dir.path(), backend.get());
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    model = std::make_unique<Model>(std::move(opened).value());
  }
  // n different tokens.
  static std::vector<int32_t> Distinct(int n, uint64_t seed) {
    std::vector<int32_t> ids(kVocab);
    std::iota(ids.begin(), ids.end(), 0);
    Rng rng(seed);
    for (size_t i = 0; i < ids.size(); ++i) std::swap(ids[i], ids[i + rng.Below(ids.size() - i)]);
    ids.resize(n);
    return ids;
  }
  static void ExpectFound(const std::vector<double>& scores, double at_least, double others_at_most) {
    ASSERT_EQ(scores.size(), 8u);
    for (size_t head = 0; head < scores.size(); ++head) {
      if (head == kInduction) {
        EXPECT_GT(scores[head], at_least);
      } else {
        EXPECT_LT(scores[head], others_at_most) << "head " << head;
      }
    }
  }
  TempDir dir;
  BackendPtr backend;
  std::unique_ptr<Model> model;
};

TEST_F(HandMadeTest, OptimizeFindsTheHead) {
  TeacherStudent streams =
      TeacherStudent::Create(*model, {.sink = 4, .recent = 12, .max_tokens = 140, .compute = ComputeType::kF32})
          .value();
  GateOptimizer optimizer({.n_steps = 150, .reg_weight = kAdaptedPenaltyBegin, .target_sparsity = 0.875}, 8);
  for (uint64_t step = 0; step < 150; ++step) {
    std::vector<int32_t> ids = Distinct(100, step);
    ids.insert(ids.end(), ids.begin() + 20, ids.begin() + 60);  // repeats a stretch from the middle, as an answer would
    Result<TwoStreamLoss> loss = streams.Loss(ids, {100, 140}, optimizer.state().gates);
    ASSERT_TRUE(loss.ok()) << loss.status().message();
    optimizer.Step(loss->gate_gradients);
  }
  ExpectFound(optimizer.state().gates, 0.7, 0.1);
}

TEST_F(HandMadeTest, RepeatFindsTheHead) {
  const std::vector<int32_t> ids = Distinct(180, 3);
  const std::vector<int32_t> context(ids.begin(), ids.begin() + 160), prompt(ids.begin() + 160, ids.end());
  for (const int64_t chunk : {7, 512}) {
    for (const int64_t repeat_chunk : {50, 1000}) {
      const RepeatInput input{.context = context, .prompt = prompt, .sink = 4, .repeat_chunk = repeat_chunk};
      const Result<std::vector<double>> scores =
          RepeatScores(*model, input, {.compute = ComputeType::kF32, .chunk = chunk});
      ASSERT_TRUE(scores.ok()) << scores.status().message();
      ExpectFound(*scores, 0.9, 0.05);
    }
  }
}

TEST_F(HandMadeTest, ProfileFindsTheHead) {
  std::vector<std::vector<int32_t>> texts;
  for (uint64_t seed = 0; seed < 4; ++seed) texts.push_back(Distinct(150, seed));
  for (const int64_t chunk : {11, 512}) {
    const Result<std::vector<double>> scores =
        ProfileScores(*model, texts, {.compute = ComputeType::kF32, .chunk = chunk});
    ASSERT_TRUE(scores.ok()) << scores.status().message();
    ExpectFound(*scores, 0.3, 0.05);
  }
}

// No token comes twice, so the induction head spreads its attention over all keys, also those outside sink and window.
TEST_F(HandMadeTest, MassFindsTheHead) {
  const Result<std::vector<double>> scores = OutsideMassScores(*model, {Distinct(150, 1), Distinct(100, 2)}, 4, 12,
                                                               {.compute = ComputeType::kF32, .chunk = 33});
  ASSERT_TRUE(scores.ok()) << scores.status().message();
  ExpectFound(*scores, 0.3, 0.02);
}

TEST_F(HandMadeTest, BadArgumentsAreErrors) {
  const std::vector<int32_t> ids = Distinct(20, 1);
  EXPECT_EQ(RepeatScores(*model, {.context = ids, .prompt = {}, .sink = 20}, {}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(ProfileScores(*model, {}, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ProfileScores(*model, {{1}}, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ProfileScores(*model, {{1, 500}}, {}).status().code(), StatusCode::kInvalidArgument);
  const auto stop = [](const Progress&) { return false; };
  EXPECT_EQ(ProfileScores(*model, {ids}, {}, stop).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(RepeatScores(*model, {.context = ids, .prompt = {}, .sink = 4}, {}, stop).status().code(),
            StatusCode::kCancelled);
}

}  // namespace
}  // namespace duo
