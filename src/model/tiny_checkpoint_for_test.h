// A small checkpoint whose numbers every element type holds exactly. It also computes the model's equations in their
// plainest form: with tensors by name, in double, one token at a time.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "checkpoint/safetensors.h"

namespace duo {

/// 2 layers, 4 q heads, 2 KV heads of 8, hidden 24, intermediate 40, vocabulary 50.
class TinyCheckpoint {
 public:
  static constexpr int kLayers = 2, kHeads = 4, kKvHeads = 2, kHeadDim = 8, kGroup = kHeads / kKvHeads;
  static constexpr int64_t kHidden = 24, kIntermediate = 40, kVocab = 50;

  /// `family`: the model_type. Other keys of `config` may be changed before Fill.
  explicit TinyCheckpoint(const std::string& family = "llama") {
    config = {{"model_type", family},
              {"vocab_size", kVocab},
              {"hidden_size", kHidden},
              {"head_dim", kHeadDim},
              {"intermediate_size", kIntermediate},
              {"num_hidden_layers", kLayers},
              {"rms_norm_eps", 0.0625},
              {"num_attention_heads", kHeads},
              {"num_key_value_heads", kKvHeads},
              {"hidden_act", "silu"},
              {"max_position_embeddings", 64},
              {"tie_word_embeddings", false},
              {"torch_dtype", "float32"},
              {"rope_theta", 100.0}};
  }

  /// Draws random values for the tensors that the config announces.
  void Fill(uint64_t seed) {
    Rng rng(seed);
    const auto add = [&](const std::string& name, std::vector<int64_t> shape, double mean) {
      int64_t n = 1;
      for (const int64_t d : shape) n *= d;
      std::vector<float>& values = tensors[name].values;
      values.clear();
      // Multiples of 1/64 below 2, which need eight bits.
      for (int64_t i = 0; i < n; ++i) {
        values.push_back(static_cast<float>(mean + (static_cast<double>(rng.Below(51)) - 25) / 64));
      }
      tensors[name].shape = std::move(shape);
    };
    const bool tied = config["tie_word_embeddings"], attention_bias = config.value("attention_bias", false);
    const bool qkv_bias = attention_bias || config["model_type"] == "qwen2";
    add("model.embed_tokens.weight", {kVocab, kHidden}, 0);
    if (!tied) add("lm_head.weight", {kVocab, kHidden}, 0);
    add("model.norm.weight", {kHidden}, 1);
    for (int i = 0; i < kLayers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      add(layer + "input_layernorm.weight", {kHidden}, 1);
      add(layer + "post_attention_layernorm.weight", {kHidden}, 1);
      const int64_t q = kHeads * kHeadDim, kv = kKvHeads * kHeadDim;
      for (const auto& [name, n_out, n_in, bias] : std::vector<std::tuple<std::string, int64_t, int64_t, bool>>{
               {"self_attn.q_proj", q, kHidden, qkv_bias},
               {"self_attn.k_proj", kv, kHidden, qkv_bias},
               {"self_attn.v_proj", kv, kHidden, qkv_bias},
               {"self_attn.o_proj", kHidden, q, attention_bias},
               {"mlp.gate_proj", kIntermediate, kHidden, config.value("mlp_bias", false)},
               {"mlp.up_proj", kIntermediate, kHidden, config.value("mlp_bias", false)},
               {"mlp.down_proj", kHidden, kIntermediate, config.value("mlp_bias", false)}}) {
        add(layer + name + ".weight", {n_out, n_in}, 0);
        if (bias) add(layer + name + ".bias", {n_out}, 0);
      }
      if (config["model_type"] == "qwen3") {
        add(layer + "self_attn.q_norm.weight", {kHeadDim}, 1);
        add(layer + "self_attn.k_norm.weight", {kHeadDim}, 1);
      }
    }
  }

  /// Writes config.json and model.safetensors into a folder. Elements have the type in the config's torch_dtype.
  void Write(const std::string& dir) const {
    ASSERT_TRUE(WriteFileAtomic(dir + "/config.json", config.dump()).ok());
    const std::string dtype = config["torch_dtype"];
    std::vector<std::vector<uint16_t>> halves;
    std::vector<safetensors::Tensor> written;
    for (const auto& [name, tensor] : tensors) {
      if (dtype == "float32") {
        written.push_back({name, safetensors::Type::kF32, tensor.shape, tensor.values.data()});
        continue;
      }
      halves.emplace_back();
      for (const float x : tensor.values) halves.back().push_back(dtype == "float16" ? F16Bits(x) : Bf16Bits(x));
      const auto type = dtype == "float16" ? safetensors::Type::kF16 : safetensors::Type::kBF16;
      written.push_back({name, type, tensor.shape, halves.back().data()});
    }
    ASSERT_TRUE(safetensors::WriteSafetensors(dir + "/model.safetensors", written).ok());
  }

  /// Whether the query at position i may see the key at position j.
  using Sees = std::function<bool(int layer, int kv_head, int64_t i, int64_t j)>;

  /// Every token's values in one layer.
  struct LayerValues {
    std::vector<std::vector<double>> normed, q, k;            // q and k before RoPE
    std::vector<std::vector<std::vector<double>>> weights;    // [token][q head][position] attention weights
    std::vector<std::vector<double>> attended, middle, down;  // inputs of o; of gate and up; of down
  };
  /// Values of every layer, and every token's hidden state after the final norm and its logits.
  struct Output {
    std::vector<LayerValues> layers;
    std::vector<std::vector<double>> hidden, logits;
  };
  /// Runs the model over `ids`. inv_freq and amplitude are the parameters of RoPE.
  Output Run(const std::vector<int32_t>& ids, const std::vector<double>& inv_freq, double amplitude,
             const Sees& sees) const {
    Output out;
    out.layers.resize(kLayers);
    std::vector<std::vector<std::vector<double>>> keys(kLayers), values(kLayers);  // [layer][position]
    for (size_t pos = 0; pos < ids.size(); ++pos) {
      std::vector<double> x(kHidden);
      for (size_t d = 0; d < x.size(); ++d) {
        x[d] = At("model.embed_tokens.weight", ids[pos] * x.size() + d);
      }
      for (size_t layer = 0; layer < kLayers; ++layer) {
        LayerValues& of = out.layers[layer];
        const std::string name = "model.layers." + std::to_string(layer) + ".", attn = name + "self_attn.";
        of.normed.push_back(Norm(x, name + "input_layernorm.weight"));
        of.q.push_back(NormedHeads(Product(of.normed.back(), attn + "q_proj"), attn + "q_norm.weight"));
        of.k.push_back(NormedHeads(Product(of.normed.back(), attn + "k_proj"), attn + "k_norm.weight"));
        keys[layer].push_back(Rotated(of.k.back(), pos, inv_freq, amplitude));
        values[layer].push_back(Product(of.normed.back(), attn + "v_proj"));
        of.weights.push_back(
            Weights(Rotated(of.q.back(), pos, inv_freq, amplitude), keys[layer], [&](int kv_head, size_t j) {
              return sees(static_cast<int>(layer), kv_head, static_cast<int64_t>(pos), static_cast<int64_t>(j));
            }));
        of.attended.push_back(Attended(of.weights.back(), values[layer]));
        Add(Product(of.attended.back(), attn + "o_proj"), &x);
        of.middle.push_back(Norm(x, name + "post_attention_layernorm.weight"));
        std::vector<double> gate = Product(of.middle.back(), name + "mlp.gate_proj");
        const std::vector<double> up = Product(of.middle.back(), name + "mlp.up_proj");
        for (size_t d = 0; d < gate.size(); ++d) gate[d] = gate[d] / (1 + std::exp(-gate[d])) * up[d];
        of.down.push_back(gate);
        Add(Product(gate, name + "mlp.down_proj"), &x);
      }
      out.hidden.push_back(Norm(x, "model.norm.weight"));
      out.logits.push_back(
          Product(out.hidden.back(), tensors.contains("lm_head.weight") ? "lm_head" : "model.embed_tokens"));
    }
    return out;
  }

  /// RoPE of one position. Elements d and d + head_dim / 2 of a head are rotated as a pair.
  static std::vector<double> Rotated(const std::vector<double>& heads, size_t pos, const std::vector<double>& inv_freq,
                                     double amplitude) {
    std::vector<double> out(heads.size());
    for (size_t at = 0; at < heads.size(); at += kHeadDim) {
      for (size_t d = at; d < at + kHeadDim / 2; ++d) {
        const double angle = static_cast<double>(pos) * inv_freq[d - at];
        const double c = amplitude * std::cos(angle), s = amplitude * std::sin(angle);
        out[d] = heads[d] * c - heads[d + kHeadDim / 2] * s;
        out[d + kHeadDim / 2] = heads[d + kHeadDim / 2] * c + heads[d] * s;
      }
    }
    return out;
  }

  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };
  Json config;
  std::map<std::string, Tensor> tensors;

 private:
  double At(const std::string& name, size_t i) const { return tensors.at(name).values.at(i); }

  /// x / rms(x) * weight.
  std::vector<double> Norm(std::vector<double> x, const std::string& weight) const {
    double squares = 0;
    for (const double v : x) squares += v * v;
    const double rms = std::sqrt(squares / static_cast<double>(x.size()) + config["rms_norm_eps"].get<double>());
    for (size_t d = 0; d < x.size(); ++d) x[d] *= At(weight, d) / rms;
    return x;
  }
  /// W x + b.
  std::vector<double> Product(const std::vector<double>& x, const std::string& name) const {
    const Tensor& w = tensors.at(name + ".weight");
    const auto bias = tensors.find(name + ".bias");
    std::vector<double> y(w.shape[0]);
    for (size_t r = 0; r < y.size(); ++r) {
      y[r] = bias == tensors.end() ? 0 : static_cast<double>(bias->second.values[r]);
      for (size_t d = 0; d < x.size(); ++d) y[r] += static_cast<double>(w.values[r * x.size() + d]) * x[d];
    }
    return y;
  }
  /// Each head after its norm, if the model has one.
  std::vector<double> NormedHeads(const std::vector<double>& heads, const std::string& norm) const {
    if (!tensors.contains(norm)) return heads;
    std::vector<double> out;
    for (auto head = heads.begin(); head != heads.end(); head += kHeadDim) {
      const std::vector<double> normed = Norm({head, head + kHeadDim}, norm);
      out.insert(out.end(), normed.begin(), normed.end());
    }
    return out;
  }
  /// Softmax over the visible positions. The others have weight 0.
  template <class MaySee>
  static std::vector<std::vector<double>> Weights(const std::vector<double>& q,
                                                  const std::vector<std::vector<double>>& keys, const MaySee& sees) {
    std::vector<std::vector<double>> weights(kHeads, std::vector<double>(keys.size(), 0.0));
    for (size_t head = 0; head < kHeads; ++head) {
      double sum = 0;
      for (size_t j = 0; j < keys.size(); ++j) {
        if (!sees(static_cast<int>(head) / kGroup, j)) continue;
        double score = 0;
        for (size_t d = 0; d < kHeadDim; ++d) score += q[head * kHeadDim + d] * keys[j][head / kGroup * kHeadDim + d];
        sum += weights[head][j] = std::exp(score / std::sqrt(static_cast<double>(kHeadDim)));
      }
      for (double& weight : weights[head]) weight /= sum;
    }
    return weights;
  }
  static std::vector<double> Attended(const std::vector<std::vector<double>>& weights,
                                      const std::vector<std::vector<double>>& values) {
    std::vector<double> out(kHeads * kHeadDim, 0.0);
    for (size_t head = 0; head < kHeads; ++head) {
      for (size_t j = 0; j < values.size(); ++j) {
        for (size_t d = 0; d < kHeadDim; ++d) {
          out[head * kHeadDim + d] += weights[head][j] * values[j][head / kGroup * kHeadDim + d];
        }
      }
    }
    return out;
  }
  static void Add(const std::vector<double>& y, std::vector<double>* x) {
    for (size_t d = 0; d < y.size(); ++d) (*x)[d] += y[d];
  }
  static uint16_t Bf16Bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
  }
  /// The bits of a number that f16 can hold.
  static uint16_t F16Bits(float x) {
    if (x == 0) return 0;
    int exponent;
    const double fraction = std::frexp(std::fabs(static_cast<double>(x)), &exponent);  // in [0.5, 1)
    const int bits = (exponent - 1 + 15) * 1024 + static_cast<int>((2 * fraction - 1) * 1024);
    return static_cast<uint16_t>(bits + (x < 0 ? 0x8000 : 0));
  }
};

}  // namespace duo
