#include "checkpoint/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/data_for_test.h"
#include "base/temp_dir_for_test.h"

namespace duo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Json Base(const char* model_type = "llama") {
  return Json{{"model_type", model_type},     {"vocab_size", 1000},     {"hidden_size", 128},
              {"intermediate_size", 384},     {"num_hidden_layers", 4}, {"num_attention_heads", 8},
              {"num_key_value_heads", 2},     {"rms_norm_eps", 1e-5},   {"max_position_embeddings", 4096},
              {"tie_word_embeddings", false}, {"rope_theta", 500000.0}, {"hidden_act", "silu"},
              {"torch_dtype", "bfloat16"},    {"bos_token_id", 1}};
}

Json With(Json config, const Json& changes) {
  config.update(changes);
  return config;
}

HfConfig Good(const Json& config, const Json& generation = Json()) {
  const Result<HfConfig> result = ParseHfConfig(config, generation, "config.json");
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? *result : HfConfig();
}

void ExpectRefused(const Json& config, StatusCode code, const std::string& sentence) {
  const Result<HfConfig> result = ParseHfConfig(config, Json(), "dir/config.json");
  ASSERT_FALSE(result.ok()) << config.dump();
  EXPECT_EQ(result.status().code(), code) << result.status().message();
  EXPECT_THAT(result.status().message(), HasSubstr("dir/config.json: "));
  EXPECT_THAT(result.status().message(), HasSubstr(sentence));
}

TEST(HfConfig, ReadsTheCommonFacts) {
  const HfConfig hf = Good(Base());
  EXPECT_EQ(hf.model_type, ModelType::kLlama);
  EXPECT_EQ(hf.vocab_size, 1000);
  EXPECT_EQ(hf.hidden_size, 128);
  EXPECT_EQ(hf.intermediate_size, 384);
  EXPECT_EQ(hf.n_layers, 4);
  EXPECT_EQ(hf.n_heads, 8);
  EXPECT_EQ(hf.n_kv_heads, 2);
  EXPECT_EQ(hf.group(), 4);
  EXPECT_EQ(hf.head_dim, 16);
  EXPECT_EQ(hf.rms_norm_eps, 1e-5);
  EXPECT_EQ(hf.max_position_embeddings, 4096);
  EXPECT_EQ(hf.max_context, 0);
  EXPECT_EQ(hf.bos_id, 1);
  EXPECT_THAT(hf.eos_ids, IsEmpty());
  EXPECT_EQ(hf.dtype, DType::kBF16);
  EXPECT_EQ(hf.rope.type, RopeType::kDefault);
  EXPECT_EQ(hf.rope.theta, 500000.0);
}

TEST(HfConfig, DefaultsOfAbsentKeys) {
  Json config = Base();
  for (const char* key : {"num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act", "tie_word_embeddings"}) {
    config.erase(key);
  }
  config["rope_scaling"] = nullptr;
  const HfConfig hf = Good(config);
  EXPECT_EQ(hf.n_kv_heads, 8);
  EXPECT_EQ(hf.rms_norm_eps, 1e-6);
  EXPECT_EQ(hf.rope.theta, 10000.0);
  EXPECT_FALSE(hf.tie_word_embeddings);
  EXPECT_EQ(Good(With(Base("qwen3"), {{"head_dim", nullptr}})).head_dim, 128);
  EXPECT_EQ(Good(With(Base("mistral"), {{"head_dim", 64}})).head_dim, 64);
}

TEST(HfConfig, BiasesAndNormsFollowTheFamily) {
  const Json biases = {{"attention_bias", true}, {"mlp_bias", true}};
  const HfConfig llama = Good(With(Base(), biases));
  EXPECT_TRUE(llama.qkv_bias && llama.o_bias && llama.mlp_bias && !llama.qk_norm);
  const HfConfig plain = Good(Base());
  EXPECT_FALSE(plain.qkv_bias || plain.o_bias || plain.mlp_bias || plain.qk_norm);
  const HfConfig mistral = Good(With(Base("mistral"), biases));
  EXPECT_FALSE(mistral.qkv_bias || mistral.o_bias || mistral.mlp_bias || mistral.qk_norm);
  const HfConfig qwen2 = Good(Base("qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.o_bias || qwen2.mlp_bias || qwen2.qk_norm);
  const HfConfig qwen3 = Good(With(Base("qwen3"), {{"attention_bias", true}}));
  EXPECT_TRUE(qwen3.qkv_bias && qwen3.o_bias && qwen3.qk_norm);
  EXPECT_FALSE(Good(Base("qwen3")).qkv_bias);
}

TEST(HfConfig, EosIdsOfBothFiles) {
  const HfConfig hf = Good(With(Base(), {{"eos_token_id", 2}}), {{"eos_token_id", {7, 2, 9, 7}}});
  EXPECT_THAT(hf.eos_ids, ElementsAre(2, 7, 9));
  EXPECT_THAT(Good(With(Base(), {{"eos_token_id", {5, 6}}})).eos_ids, ElementsAre(5, 6));
  ExpectRefused(With(Base(), {{"eos_token_id", 1000}}), StatusCode::kCorrupt,
                "eos_token_id: expected token ids in 0..999");
  ExpectRefused(With(Base(), {{"eos_token_id", "</s>"}}), StatusCode::kCorrupt, "eos_token_id");
  EXPECT_EQ(Good(With(Base(), {{"bos_token_id", nullptr}})).bos_id, -1);
  EXPECT_EQ(Good(With(Base(), {{"bos_token_id", -1}})).bos_id, -1);
}

TEST(HfConfig, MissingKeysAreNamed) {
  for (const char* key :
       {"model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
    Json config = Base();
    config.erase(key);
    ExpectRefused(config, StatusCode::kCorrupt, std::string(key) + ": expected");
  }
}

TEST(HfConfig, RangesAndDivisibility) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "max_position_embeddings"}) {
    ExpectRefused(With(Base(), {{key, 0}}), StatusCode::kCorrupt, key);
    ExpectRefused(With(Base(), {{key, -8}}), StatusCode::kCorrupt, key);
    ExpectRefused(With(Base(), {{key, int64_t{1} << 62}}), StatusCode::kCorrupt, key);
    ExpectRefused(With(Base(), {{key, UINT64_MAX}}), StatusCode::kCorrupt, key);
    ExpectRefused(With(Base(), {{key, "12"}}), StatusCode::kCorrupt, key);
  }
  ExpectRefused(With(Base(), {{"num_key_value_heads", 3}}), StatusCode::kCorrupt, "not a multiple");
  ExpectRefused(With(Base(), {{"hidden_size", 130}}), StatusCode::kCorrupt, "there is no head_dim");
  ExpectRefused(With(Base(), {{"head_dim", 15}}), StatusCode::kCorrupt, "even");
  ExpectRefused(With(Base(), {{"head_dim", 514}}), StatusCode::kCorrupt, "1..512");
  ExpectRefused(With(Base(), {{"rms_norm_eps", -1e-5}}), StatusCode::kCorrupt, "rms_norm_eps");
  ExpectRefused(Json::array(), StatusCode::kCorrupt, "expected a JSON object");
}

TEST(HfConfig, OtherArchitecturesAreRefusedWithASentence) {
  const char* opens = "duo opens dense llama, mistral, qwen2 and qwen3";
  ExpectRefused(Base("gpt2"), StatusCode::kUnsupported, opens);
  ExpectRefused(Base("mixtral"), StatusCode::kUnsupported, "model_type \"mixtral\"");
  ExpectRefused(With(Base("qwen3"), {{"num_experts", 128}}), StatusCode::kUnsupported, "mixture of experts");
  ExpectRefused(With(Base(), {{"num_local_experts", 8}}), StatusCode::kUnsupported, "mixture of experts");
  ExpectRefused(With(Base(), {{"quantization_config", {{"bits", 4}}}}), StatusCode::kUnsupported,
                "quantization_config");
  ExpectRefused(With(Base(), {{"hidden_act", "gelu"}}), StatusCode::kUnsupported, "hidden_act \"gelu\"");
  ExpectRefused(With(Base(), {{"partial_rotary_factor", 0.5}}), StatusCode::kUnsupported, "partial_rotary_factor");
}

TEST(HfConfig, SlidingWindows) {
  const Json window = {{"sliding_window", 1024}};
  ExpectRefused(With(Base("mistral"), window), StatusCode::kUnsupported, "sliding_window 1024");
  EXPECT_EQ(Good(With(Base("mistral"), {{"sliding_window", nullptr}})).max_context, 0);
  EXPECT_EQ(Good(With(Base("mistral"), {{"sliding_window", 8192}})).max_context, 8192);
  for (const char* qwen : {"qwen2", "qwen3"}) {
    Good(With(Base(qwen), window));
    Good(With(Base(qwen), {{"sliding_window", 1024}, {"use_sliding_window", false}, {"max_window_layers", 2}}));
    Good(With(Base(qwen), {{"sliding_window", 1024}, {"use_sliding_window", true}, {"max_window_layers", 4}}));
    ExpectRefused(With(Base(qwen), {{"sliding_window", 1024}, {"use_sliding_window", true}, {"max_window_layers", 3}}),
                  StatusCode::kUnsupported, "use_sliding_window");
  }
  const Json full = "full_attention";
  Good(With(Base("qwen3"), {{"layer_types", {full, full, full, full}}}));
  ExpectRefused(With(Base("qwen3"), {{"layer_types", {full, full, "sliding_attention", full}}}),
                StatusCode::kUnsupported, "layer_types[2] is \"sliding_attention\"");
  ExpectRefused(With(Base("qwen3"), {{"layer_types", {full}}}), StatusCode::kCorrupt, "layer_types");
}

TEST(HfRope, LinearUnderBothSpellings) {
  for (const char* key : {"type", "rope_type"}) {
    const RopeConfig rope = Good(With(Base(), {{"rope_scaling", {{key, "linear"}, {"factor", 8}}}})).rope;
    EXPECT_EQ(rope.type, RopeType::kLinear);
    EXPECT_EQ(rope.factor, 8.0);
    EXPECT_EQ(rope.theta, 500000.0);
    EXPECT_EQ(rope.attention_factor, 1.0);
  }
}

TEST(HfRope, Llama3) {
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", 32.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 1024}};
  const RopeConfig rope = Good(With(Base(), {{"rope_scaling", scaling}})).rope;
  EXPECT_EQ(rope.type, RopeType::kLlama3);
  EXPECT_EQ(rope.factor, 32.0);
  EXPECT_EQ(rope.original_max_position_embeddings, 1024);
  Json missing = scaling;
  missing.erase("high_freq_factor");
  ExpectRefused(With(Base(), {{"rope_scaling", missing}}), StatusCode::kCorrupt, "rope_scaling: high_freq_factor");
  ExpectRefused(With(Base(), {{"rope_scaling", With(scaling, {{"high_freq_factor", 1.0}})}}), StatusCode::kCorrupt,
                "expected more than low_freq_factor");
}

TEST(HfRope, ParametersHoldTheta) {
  Json config = Base();
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  EXPECT_EQ(Good(config).rope.theta, 1e6);
  config["rope_parameters"] = {{"full_attention", {{"rope_type", "linear"}, {"factor", 2}, {"rope_theta", 5e6}}},
                               {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 1e4}}}};
  EXPECT_EQ(Good(config).rope.theta, 5e6);
  EXPECT_EQ(Good(config).rope.type, RopeType::kLinear);
}

TEST(HfRope, YarnAttentionFactor) {
  Json yarn = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}};
  const RopeConfig plain = Good(With(Base("qwen2"), {{"rope_scaling", yarn}})).rope;
  EXPECT_EQ(plain.type, RopeType::kYarn);
  EXPECT_EQ(plain.beta_fast, 32.0);
  EXPECT_EQ(plain.beta_slow, 1.0);
  EXPECT_TRUE(plain.truncate);
  EXPECT_DOUBLE_EQ(plain.attention_factor, 0.1 * std::log(4.0) + 1.0);
  const Json scales = {
      {"mscale", 2.0}, {"mscale_all_dim", 0.5}, {"beta_fast", 0}, {"beta_slow", nullptr}, {"truncate", false}};
  const RopeConfig scaled = Good(With(Base("qwen2"), {{"rope_scaling", With(yarn, scales)}})).rope;
  EXPECT_DOUBLE_EQ(scaled.attention_factor, (0.2 * std::log(4.0) + 1.0) / (0.05 * std::log(4.0) + 1.0));
  EXPECT_EQ(scaled.beta_fast, 32.0);
  EXPECT_FALSE(scaled.truncate);
  EXPECT_DOUBLE_EQ(Good(With(Base(), {{"rope_scaling", With(yarn, {{"mscale", 2.0}})}})).rope.attention_factor,
                   plain.attention_factor)
      << "mscale alone changes nothing";
  EXPECT_EQ(Good(With(Base(), {{"rope_scaling", With(yarn, {{"attention_factor", 1.5}})}})).rope.attention_factor, 1.5);
}

TEST(HfRope, YarnFallbacks) {
  Json yarn = {{"rope_type", "yarn"}, {"factor", 2.0}};
  EXPECT_EQ(Good(With(Base(), {{"rope_scaling", yarn}})).rope.original_max_position_embeddings, 4096);
  const Json outside = {{"rope_scaling", yarn}, {"original_max_position_embeddings", 512}};
  EXPECT_EQ(Good(With(Base(), outside)).rope.original_max_position_embeddings, 512);
  yarn["factor"] = nullptr;
  yarn["original_max_position_embeddings"] = 512;
  EXPECT_EQ(Good(With(Base(), {{"rope_scaling", yarn}})).rope.factor, 8.0);
  ExpectRefused(With(Base(), {{"rope_scaling", With(yarn, {{"beta_fast", 0.5}})}}), StatusCode::kCorrupt, "beta_fast");
}

TEST(HfRope, DynamicLimitsTheContext) {
  const HfConfig hf = Good(With(Base(), {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}));
  EXPECT_EQ(hf.rope.type, RopeType::kDynamic);
  EXPECT_EQ(hf.max_context, 4096);
}

TEST(HfRope, BadInput) {
  ExpectRefused(With(Base(), {{"rope_scaling", {{"type", "longrope"}, {"factor", 2.0}}}}), StatusCode::kUnsupported,
                "rope type \"longrope\"; duo knows default, linear, llama3, yarn and dynamic");
  ExpectRefused(With(Base(), {{"rope_scaling", {{"type", "linear"}}}}), StatusCode::kCorrupt, "rope_scaling: factor");
  ExpectRefused(With(Base(), {{"rope_scaling", {{"type", "linear"}, {"factor", 0}}}}), StatusCode::kCorrupt, "factor");
  ExpectRefused(With(Base(), {{"rope_scaling", "linear"}}), StatusCode::kCorrupt, "rope_scaling: expected an object");
  ExpectRefused(With(Base(), {{"rope_scaling", {{"type", 3}}}}), StatusCode::kCorrupt, "type: expected a string");
  ExpectRefused(With(Base(), {{"rope_theta", 0.5}}), StatusCode::kCorrupt, "rope_theta");
}

TEST(HfConfig, LoadsADirectory) {
  const TempDir dir;
  EXPECT_EQ(LoadHfConfig(dir.path()).status().code(), StatusCode::kNotFound);
  EXPECT_THAT(LoadHfConfig(dir.path()).status().message(), HasSubstr(dir.file("config.json")));
  dir.Write("config.json", Base().dump());
  EXPECT_THAT(LoadHfConfig(dir.path())->eos_ids, IsEmpty());
  dir.Write("generation_config.json", R"({"eos_token_id":[3,4]})");
  EXPECT_THAT(LoadHfConfig(dir.path())->eos_ids, ElementsAre(3, 4));
  EXPECT_THAT(LoadHfConfigFile(dir.file("config.json"))->eos_ids, IsEmpty());
  dir.Write("generation_config.json", "{");
  EXPECT_THAT(LoadHfConfig(dir.path()).status().message(), HasSubstr("generation_config.json"));
}

TEST(HfConfig, LoadsTheEmbeddedModel) {
  const Result<HfConfig> hf = LoadHfConfig(SourceDir() + "/models/demo");
  ASSERT_TRUE(hf.ok()) << hf.status().message();
  EXPECT_EQ(hf->n_kv_heads, 4);
  EXPECT_EQ(hf->head_dim, 32);
  EXPECT_TRUE(hf->tie_word_embeddings);
}

TEST(HfConfig, LoadsTheGoldenModels) {
  const std::string golden = SharedData("golden");
  if (golden.empty()) GTEST_SKIP() << "SKIPPED: no golden models in DUO_SHARED_DIR";
  EXPECT_EQ(LoadHfConfig(golden + "/llama_gqa")->head_dim, 16);
  EXPECT_EQ(LoadHfConfig(golden + "/llama3_rope")->rope.type, RopeType::kLlama3);
  EXPECT_EQ(LoadHfConfig(golden + "/mistral_headdim")->head_dim, 32);
  EXPECT_TRUE(LoadHfConfig(golden + "/qwen2_bias")->qkv_bias);
}

}  // namespace
}  // namespace duo
