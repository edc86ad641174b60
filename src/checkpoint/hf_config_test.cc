#include "checkpoint/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <utility>

#include "base/data_for_test.h"
#include "base/temp_dir_for_test.h"
#include "checkpoint/hf_config_for_test.h"

namespace duo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  for (const auto& [type, n_kv_heads] : {std::pair("llama", 64), {"mistral", 8}, {"qwen2", 32}, {"qwen3", 32}}) {
    Json absent = With(Base(type), {{"num_attention_heads", 64}});
    absent.erase("num_key_value_heads");
    EXPECT_EQ(Good(absent).n_kv_heads, n_kv_heads) << type;
    EXPECT_EQ(Good(With(absent, {{"num_key_value_heads", nullptr}})).n_kv_heads, 64) << type;
  }
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
  ExpectRefused(With(Base(), {{"eos_token_id", "</s>"}}), StatusCode::kCorrupt,
                "eos_token_id: expected token ids in 0..999");
  ExpectRefused(With(Base(), {{"eos_token_id", 2.5}}), StatusCode::kCorrupt, "eos_token_id");
  EXPECT_EQ(Good(With(Base(), {{"bos_token_id", nullptr}})).bos_id, -1);
}

TEST(HfConfig, IdsOutsideTheVocabularyAreIgnoredWithANote) {
  const std::string rest = " is ignored, because it is not in the vocabulary 0..999";
  EXPECT_THAT(Good(Base()).notes, IsEmpty());
  const HfConfig eos = Good(With(Base(), {{"eos_token_id", -1}}), {{"eos_token_id", {7, 1000}}});
  EXPECT_THAT(eos.eos_ids, ElementsAre(7));
  EXPECT_THAT(eos.notes, ElementsAre("config.json: eos_token_id: -1" + rest,
                                     "config.json (generation_config.json): eos_token_id: 1000" + rest));
  EXPECT_THAT(Good(With(Base(), {{"eos_token_id", UINT64_MAX}})).eos_ids, IsEmpty());
  for (const int64_t id : {int64_t{-1}, int64_t{1000}, int64_t{1} << 40}) {
    const HfConfig bos = Good(With(Base(), {{"bos_token_id", id}}));
    EXPECT_EQ(bos.bos_id, -1);
    EXPECT_THAT(bos.notes, ElementsAre("config.json: bos_token_id: " + std::to_string(id) + rest));
  }
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

void ExpectWindow(const Json& config, int64_t window) {
  const HfConfig hf = Good(config);
  EXPECT_EQ(hf.max_context, window) << config.dump();
  if (window == 0) {
    EXPECT_THAT(hf.notes, IsEmpty());
    return;
  }
  EXPECT_EQ(hf.max_context_reason, "sliding_window " + std::to_string(window));
  ASSERT_EQ(hf.notes.size(), window < hf.trained_context ? 1u : 0u) << config.dump();
  if (window < hf.trained_context) {
    EXPECT_THAT(hf.notes[0], HasSubstr("sliding_window: the context is limited to its " + std::to_string(window) +
                                       " tokens, of " + std::to_string(hf.trained_context)));
  }
}

// Keys are read as transformers reads them, also when they are absent. The default of sliding_window is 4096, and null
// means no window.
TEST(HfConfig, AMistralWindowLimitsTheContext) {
  Json mistral = With(Base("mistral"), {{"max_position_embeddings", 32768}});
  ExpectWindow(mistral, 4096);
  ExpectWindow(With(mistral, {{"sliding_window", nullptr}}), 0);
  ExpectWindow(With(mistral, {{"sliding_window", 1024}}), 1024);
  ExpectWindow(With(mistral, {{"sliding_window", 32768}}), 32768);
  ExpectWindow(With(mistral, {{"sliding_window", 65536}}), 65536);
  ExpectWindow(With(Base("llama"), {{"sliding_window", 1024}}), 0);  // LlamaConfig has no such key
  ExpectRefused(With(mistral, {{"sliding_window", 0}}), StatusCode::kCorrupt, "sliding_window: 0, expected 1..");
  ExpectRefused(With(mistral, {{"sliding_window", "4096"}}), StatusCode::kCorrupt, "sliding_window: expected");
}

TEST(HfConfig, AQwenWindowLimitsTheContextWhereALayerHasIt) {
  for (const char* name : {"qwen2", "qwen3"}) {
    const Json qwen = With(Base(name), {{"max_position_embeddings", 32768}, {"max_window_layers", 3}});
    ExpectWindow(With(qwen, {{"sliding_window", 1024}}), 0);
    ExpectWindow(With(qwen, {{"sliding_window", 1024}, {"use_sliding_window", false}}), 0);
    const Json used = With(qwen, {{"use_sliding_window", true}});
    ExpectWindow(With(used, {{"sliding_window", 1024}}), 1024);
    ExpectWindow(used, 4096);
    ExpectWindow(With(used, {{"sliding_window", nullptr}}), 0);
    ExpectWindow(With(used, {{"max_window_layers", 4}}), 0);
    ExpectWindow(With(used, {{"max_window_layers", 0}}), 4096);
    Json default_layers = used;
    default_layers.erase("max_window_layers");  // the default is 28, and this model has 4 layers
    ExpectWindow(default_layers, 0);
  }
}

TEST(HfConfig, LayerTypesSayWhichLayersHaveTheWindow) {
  const Json full = "full_attention", sliding = "sliding_attention";
  const Json qwen = With(Base("qwen3"), {{"max_position_embeddings", 32768}, {"max_window_layers", 0}});
  const Json used = With(qwen, {{"use_sliding_window", true}, {"sliding_window", 1024}});
  ExpectWindow(With(used, {{"layer_types", {full, full, full, full}}}), 0);
  ExpectWindow(With(used, {{"layer_types", {full, full, sliding, full}}}), 1024);
  ExpectRefused(With(qwen, {{"layer_types", {full, full, sliding, full}}}), StatusCode::kUnsupported,
                "layer_types has sliding_attention, but there is no sliding_window");
  ExpectRefused(With(qwen, {{"layer_types", {full, full, "chunked_attention", full}}}), StatusCode::kUnsupported,
                "layer_types[2] is \"chunked_attention\"");
  ExpectRefused(With(qwen, {{"layer_types", {full}}}), StatusCode::kCorrupt, "layer_types");
}

// The recipe of Qwen2.5 and Qwen3 for long texts changes only rope_scaling in config.json.
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

TEST(HfConfig, AFolderWithALoraAdapterIsSaid) {
  const TempDir dir;
  dir.Write("adapter_config.json", R"({"peft_type":"LORA","base_model_name_or_path":"some/base"})");
  const Status alone = LoadHfConfig(dir.path()).status();
  EXPECT_EQ(alone.code(), StatusCode::kUnsupported);
  EXPECT_THAT(alone.message(), HasSubstr(dir.file("adapter_config.json") + ": this folder is a LoRA adapter"));
  EXPECT_THAT(alone.message(), HasSubstr("merge it into some/base"));
  dir.Write("adapter_config.json", "{");
  EXPECT_THAT(LoadHfConfig(dir.path()).status().message(), HasSubstr("merge it into the model that it was made for"));
  dir.Write("config.json", Base().dump());
  const Result<HfConfig> beside = LoadHfConfig(dir.path());
  ASSERT_TRUE(beside.ok()) << beside.status().message();
  EXPECT_THAT(beside->notes, ElementsAre(HasSubstr("a LoRA adapter lies beside the model and is not used")));
}

TEST(HfConfig, ALinkToNothingAndAnLfsPointerAreNamed) {
  const TempDir dir;
  std::filesystem::create_symlink("../blobs/abc", dir.file("config.json"));
  const Status link = LoadHfConfig(dir.path()).status();
  EXPECT_EQ(link.code(), StatusCode::kNotFound);
  EXPECT_THAT(link.message(), HasSubstr(dir.file("config.json") + ": is a link to ../blobs/abc, which does not exist"));
  std::filesystem::remove(dir.file("config.json"));
  dir.Write("config.json", Base().dump());
  std::filesystem::create_symlink("../blobs/def", dir.file("generation_config.json"));
  EXPECT_THAT(LoadHfConfig(dir.path()).status().message(), HasSubstr("generation_config.json: is a link to"));
  std::filesystem::remove(dir.file("generation_config.json"));
  dir.Write("generation_config.json", kLfsPointerForTest);
  const Status pointer = LoadHfConfig(dir.path()).status();
  EXPECT_EQ(pointer.code(), StatusCode::kCorrupt);
  EXPECT_THAT(pointer.message(), HasSubstr(dir.file("generation_config.json") + ": is a git-lfs pointer"));
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
