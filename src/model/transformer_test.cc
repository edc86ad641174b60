// Compares the transformer with its equations (tiny_checkpoint_for_test.h), for every kind of layer, several sizes of
// chunks and several patterns of heads.
#include "model/transformer.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "base/temp_dir_for_test.h"
#include "kernels/mask.h"
#include "model/tiny_checkpoint_for_test.h"

namespace duo {
namespace {

TinyCheckpoint Made(const std::string& family, const Json& more, uint64_t seed) {
  TinyCheckpoint checkpoint(family);
  checkpoint.config.update(more);
  checkpoint.Fill(seed);
  return checkpoint;
}

/// One checkpoint for each kind of layer.
std::vector<TinyCheckpoint> Kinds() {
  return {Made("llama", Json::object(), 1),
          Made("llama", {{"attention_bias", true}, {"mlp_bias", true}, {"torch_dtype", "float16"}}, 2),
          Made("qwen2", {{"torch_dtype", "bfloat16"}}, 3), Made("qwen3", {{"tie_word_embeddings", true}}, 4),
          Made("llama",
               {{"rope_scaling",
                 {{"rope_type", "yarn"},
                  {"factor", 4.0},
                  {"original_max_position_embeddings", 16},
                  {"attention_factor", 1.25}}}},
               5)};
}

class TransformerTest : public testing::Test {
 protected:
  void SetUp() override {
    backend_ = CreateBackend({.device = Device::kCpu, .n_threads = 2}).value();
    for (int i = 0; i < 40; ++i) ids_.push_back(i * i % 47 + i % 3);
  }

  Model Open(const TinyCheckpoint& checkpoint) {
    checkpoint.Write(dir_.path());
    auto model = Model::Open(dir_.path(), backend_.get());
    EXPECT_TRUE(model.ok()) << model.status().message();
    return std::move(*model);
  }

  static KvLayout Layout(const std::vector<uint8_t>& retrieval) {
    KvLayout layout;
    layout.heads = {.n_layers = 2, .n_kv_heads = 2, .retrieval = retrieval};
    layout.head_dim = TinyCheckpoint::kHeadDim;
    layout.type = KvType::kF32;
    layout.sink = 3;
    layout.recent = 5;
    layout.prefill_recent = 9;
    layout.capacity = 64;
    return layout;
  }
  /// The mask of a layout. The first n_prompt tokens see the longer window.
  static TinyCheckpoint::Sees MaskOf(const KvLayout& layout, int64_t n_prompt) {
    return [layout, n_prompt](int layer, int kv_head, int64_t i, int64_t j) {
      if (layout.heads.is_retrieval(layer, kv_head)) return j <= i;
      return Sees({.sink = layout.sink, .window = i < n_prompt ? layout.prefill_recent : layout.recent}, i, j);
    };
  }
  static void ExpectClose(std::span<const float> got, const std::vector<double>& expected, const std::string& what) {
    double largest = 0, worst = 0;
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::fabs(expected[i]));
      const double off = std::fabs(static_cast<double>(got[i]) - expected[i]);
      worst = std::max(worst, std::isnan(off) ? HUGE_VAL : off);
    }
    EXPECT_GT(largest, 0.1);
    EXPECT_LE(worst, 2e-5 * largest) << what;
  }

  TempDir dir_;
  BackendPtr backend_;
  std::vector<int32_t> ids_;
};

/// A sequence with everything that a forward pass needs.
struct Sequence {
  Sequence(const Model& model, const KvLayout& layout, int64_t max_chunk)
      : transformer(model.weights(), ComputeType::kF32),
        cache(SplitKvCache::Create(model.backend(), layout).value()),
        attention(DuoAttention::Create(model.backend(), layout, max_chunk).value()),
        activations(Activations::Create(model.backend(), model.config(), max_chunk).value()) {}

  void Forward(std::span<const int32_t> ids, TokenKind kind) {
    ASSERT_TRUE(transformer.Forward(ids, kind, {&cache, &attention, &activations}).ok());
  }
  Status Hidden(int64_t begin, int64_t n, float* out) {
    return transformer.Hidden(activations.x, begin, n, activations, out);
  }

  Transformer transformer;
  SplitKvCache cache;
  DuoAttention attention;
  Activations activations;
};

TEST_F(TransformerTest, EqualsItsEquations) {
  int kind = 0;
  for (const TinyCheckpoint& checkpoint : Kinds()) {
    const Model model = Open(checkpoint);
    const ModelConfig& config = model.config();
    for (const std::vector<uint8_t>& retrieval :
         {std::vector<uint8_t>{1, 1, 1, 1}, std::vector<uint8_t>{1, 0, 0, 0}, std::vector<uint8_t>{0, 1, 1, 0}}) {
      const KvLayout layout = Layout(retrieval);
      const int64_t n_prompt = 30;
      const TinyCheckpoint::Output expected =
          checkpoint.Run(ids_, config.inv_freq, config.rope_amplitude, MaskOf(layout, n_prompt));
      for (const int64_t chunk : {1, 7, 18, 30}) {
        Sequence sequence(model, layout, chunk);
        for (int64_t pos = 0; pos < 40;) {
          const bool prompt = pos < n_prompt;
          const int64_t n = prompt ? std::min(chunk, n_prompt - pos) : 1;
          sequence.Forward(std::span<const int32_t>(ids_).subspan(pos, n),
                           prompt ? TokenKind::kPrompt : TokenKind::kGenerated);
          ASSERT_EQ(sequence.activations.n_tokens, n);
          std::vector<float> logits(n * 50), hidden(n * 24);
          ASSERT_TRUE(sequence.transformer.Logits(sequence.activations, 0, n, logits.data()).ok());
          ASSERT_TRUE(sequence.Hidden(0, n, hidden.data()).ok());
          for (int64_t row = 0; row < n; ++row) {
            const size_t r = row, at = pos + row;
            const std::string what = "kind " + std::to_string(kind) + ", chunks of " + std::to_string(chunk) +
                                     ", position " + std::to_string(at);
            ExpectClose(std::span<const float>(logits).subspan(r * 50, 50), expected.logits[at], what);
            ExpectClose(std::span<const float>(hidden).subspan(r * 24, 24), expected.hidden[at], what);
          }
          pos += n;
        }
        ASSERT_EQ(sequence.cache.len(), 40);
      }
    }
    ++kind;
  }
}

TEST_F(TransformerTest, SomeRowsAreThoseRowsOfAll) {
  const TinyCheckpoint checkpoint = Kinds()[1];
  const Model model = Open(checkpoint);
  Sequence sequence(model, Layout({1, 0, 0, 1}), 40);
  sequence.Forward(ids_, TokenKind::kPrompt);
  std::vector<float> all(40 * 50), hidden(40 * 24);
  ASSERT_TRUE(sequence.transformer.Logits(sequence.activations, 0, 40, all.data()).ok());
  ASSERT_TRUE(sequence.Hidden(0, 40, hidden.data()).ok());
  for (const auto& [begin, n] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {39, 1}, {5, 16}, {5, 17}, {3, 35}}) {
    std::vector<float> some(n * 50), some_hidden(n * 24);
    ASSERT_TRUE(sequence.transformer.Logits(sequence.activations, begin, n, some.data()).ok());
    ASSERT_TRUE(sequence.Hidden(begin, n, some_hidden.data()).ok());
    for (size_t i = 0; i < some.size(); ++i) {
      ASSERT_NEAR(some[i], all[begin * 50 + i], 1e-4f) << begin << " + " << i;
    }
    for (size_t i = 0; i < some_hidden.size(); ++i) {
      ASSERT_EQ(some_hidden[i], hidden[begin * 24 + i]) << begin << " + " << i;
    }
  }
}

TEST_F(TransformerTest, SequencesTogetherEqualTheirEquations) {
  for (const TinyCheckpoint& checkpoint : Kinds()) {
    const Model model = Open(checkpoint);
    const KvLayout layout = Layout({1, 0, 0, 1});
    const std::vector<std::vector<int32_t>> all = {{ids_.begin(), ids_.begin() + 20},
                                                   {ids_.begin() + 5, ids_.begin() + 17},
                                                   {ids_.begin() + 9, ids_.begin() + 40}};
    std::vector<Sequence> sequences;
    std::vector<SplitKvCache*> caches;
    std::vector<int32_t> last;
    for (const std::vector<int32_t>& ids : all) {
      sequences.emplace_back(model, layout, 32);
      sequences.back().Forward(std::span<const int32_t>(ids).first(ids.size() - 1), TokenKind::kPrompt);
      last.push_back(ids.back());
    }
    for (Sequence& sequence : sequences) caches.push_back(&sequence.cache);
    Sequence& shared = sequences[0];
    ASSERT_TRUE(shared.transformer.ForwardTogether(last, caches, &shared.attention, &shared.activations).ok());
    std::vector<float> logits(3 * 50);
    ASSERT_TRUE(shared.transformer.Logits(shared.activations, 0, 3, logits.data()).ok());
    for (size_t i = 0; i < 3; ++i) {
      const auto n = std::ssize(all[i]);
      EXPECT_EQ(caches[i]->len(), n);
      const TinyCheckpoint::Output expected =
          checkpoint.Run(all[i], model.config().inv_freq, model.config().rope_amplitude, MaskOf(layout, n - 1));
      ExpectClose(std::span<const float>(logits).subspan(i * 50, 50), expected.logits.back(), std::to_string(i));
    }
  }
}

TEST_F(TransformerTest, HooksSeeWhatTheProductsMultiply) {
  const TinyCheckpoint checkpoint = Kinds()[0];
  const Model model = Open(checkpoint);
  Sequence sequence(model, Layout({1, 1, 1, 1}), 8);
  Activations& act = sequence.activations;
  ASSERT_TRUE(sequence.cache.Begin(8).ok());
  sequence.transformer.Embed(std::span<const int32_t>(ids_).first(8), 0, &act);
  const auto expect_norm = [&](const char* name) {
    const std::vector<float>& weight = checkpoint.tensors.at(name).values;
    for (size_t t = 0; t < 8; ++t) {
      double squares = 0;
      for (size_t d = 0; d < 24; ++d) squares += static_cast<double>(act.x[t * 24 + d]) * act.x[t * 24 + d];
      const double rms = std::sqrt(squares / 24 + 0.0625);
      for (size_t d = 0; d < 24; ++d) {
        EXPECT_NEAR(act.normed[t * 24 + d], act.x[t * 24 + d] * weight[d] / rms, 1e-4) << name;
      }
    }
  };
  std::vector<LayerStep> steps;
  std::vector<float> gate, up;
  LayerHooks hooks;
  hooks.keep_prepared = true;
  hooks.after = [&](int layer, LayerStep step) {
    EXPECT_EQ(layer, 0);
    steps.push_back(step);
    if (step == LayerStep::kQkvProjection) expect_norm("model.layers.0.input_layernorm.weight");
    if (step == LayerStep::kGateUp) {
      expect_norm("model.layers.0.post_attention_layernorm.weight");
      gate.assign(act.gate, act.gate + 8 * 40);
      up.assign(act.up, act.up + 8 * 40);
    }
    return OkStatus();
  };
  const SequenceState state{&sequence.cache, &sequence.attention, &act};
  ASSERT_TRUE(sequence.transformer.RunLayer(0, TokenKind::kPrompt, act.x, state, hooks).ok());
  EXPECT_EQ(steps, (std::vector{LayerStep::kQkvProjection, LayerStep::kQkNorm, LayerStep::kRope, LayerStep::kAttention,
                                LayerStep::kOutputProjection, LayerStep::kGateUp, LayerStep::kDown}));
  for (size_t i = 0; i < gate.size(); ++i) {
    ASSERT_NEAR(act.gate[i], gate[i] / (1 + std::exp(-gate[i])) * up[i], 1e-4f) << i;
  }
}

TEST_F(TransformerTest, AHookReplacesAttention) {
  const Model model = Open(Kinds()[0]);
  Sequence sequence(model, Layout({1, 1, 1, 1}), 8);
  Activations& act = sequence.activations;
  ASSERT_TRUE(sequence.cache.Begin(8).ok());
  sequence.transformer.Embed(std::span<const int32_t>(ids_).first(8), 0, &act);
  const std::vector<float> x(act.x, act.x + 8 * 24);
  std::vector<float> lse(8 * 4, -1000.0f), zeros(8 * 4 * 8, 0.0f);
  LayerHooks hooks;
  hooks.attend = [&](int layer, AttentionInput* input) {
    EXPECT_EQ(input->out, act.attended);
    input->lse = lse.data();
    EXPECT_TRUE(sequence.attention.Run(*input, layer, &sequence.cache).ok());
    input->out = zeros.data();
    return OkStatus();
  };
  hooks.skip_down = true;
  ASSERT_TRUE(sequence.transformer.RunLayer(0, TokenKind::kPrompt, act.x, {.activations = &act}, hooks).ok());
  for (const float value : lse) EXPECT_GT(value, -100.0f);
  // The output projection of zeros adds nothing, and the layer ends before Down adds to x.
  EXPECT_TRUE(std::equal(x.begin(), x.end(), act.x));
}

TEST_F(TransformerTest, ALayerRunsOnTheStreamThatItIsGiven) {
  const Model model = Open(Kinds()[0]);
  Sequence sequence(model, Layout({1, 1, 1, 1}), 8);
  Activations& act = sequence.activations;
  ASSERT_TRUE(sequence.cache.Begin(8).ok());
  sequence.transformer.Embed(std::span<const int32_t>(ids_).first(8), 0, &act);
  const std::vector<float> embedded(act.x, act.x + 8 * 24);
  std::vector<float> other = embedded;
  const SequenceState state{&sequence.cache, &sequence.attention, &act};
  ASSERT_TRUE(sequence.transformer.RunLayer(0, TokenKind::kPrompt, other.data(), state).ok());
  EXPECT_EQ(std::vector<float>(act.x, act.x + 8 * 24), embedded);
  ASSERT_TRUE(sequence.transformer.RunLayer(0, TokenKind::kPrompt, act.x, state).ok());
  EXPECT_EQ(std::vector<float>(act.x, act.x + 8 * 24), other);
  EXPECT_NE(other, embedded);
}

TEST_F(TransformerTest, AHookCanEndTheLayer) {
  const Model model = Open(Kinds()[0]);
  Sequence sequence(model, Layout({1, 1, 1, 1}), 8);
  ASSERT_TRUE(sequence.cache.Begin(8).ok());
  sequence.transformer.Embed(std::span<const int32_t>(ids_).first(8), 0, &sequence.activations);
  for (int last = 0; last <= static_cast<int>(LayerStep::kDown); ++last) {
    int calls = 0;
    LayerHooks hooks;
    hooks.after = [&](int, LayerStep step) {
      ++calls;
      return step == static_cast<LayerStep>(last) ? Status(StatusCode::kCancelled, "enough") : OkStatus();
    };
    const SequenceState state{&sequence.cache, &sequence.attention, &sequence.activations};
    EXPECT_EQ(sequence.transformer.RunLayer(0, TokenKind::kPrompt, state.activations->x, state, hooks).message(),
              "enough");
    EXPECT_EQ(calls, last + 1);
  }
}

TEST_F(TransformerTest, IdsOutsideTheVocabularyAreNamed) {
  const auto message = [](std::vector<int32_t> ids) { return CheckTokenIds(ids, 50).message(); };
  EXPECT_TRUE(CheckTokenIds(std::vector<int32_t>{0, 49}, 50).ok());
  EXPECT_TRUE(CheckTokenIds({}, 50).ok());
  EXPECT_EQ(message({0, 50}), "token 1: id 50 is not in the vocabulary 0..49");
  EXPECT_EQ(message({-1, 50}), "token 0: id -1 is not in the vocabulary 0..49");
}

// At position 10^6 an angle in float would be wrong by 0.03.
TEST_F(TransformerTest, AnglesStayExactFarOut) {
  const Model model = Open(Kinds()[0]);
  Sequence sequence(model, Layout({1, 1, 1, 1}), 4);
  sequence.transformer.Embed(std::vector<int32_t>{1, 2}, 1234567, &sequence.activations);
  for (size_t t = 0; t < 2; ++t) {
    for (size_t d = 0; d < 4; ++d) {
      const double angle = static_cast<double>(1234567 + t) * model.config().inv_freq[d];
      EXPECT_NEAR(sequence.transformer.rope_cos()[t * 4 + d], std::cos(angle), 1e-6);
      EXPECT_NEAR(sequence.transformer.rope_sin()[t * 4 + d], std::sin(angle), 1e-6);
    }
  }
}

}  // namespace
}  // namespace duo
