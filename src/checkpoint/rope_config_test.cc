#include "checkpoint/rope_config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint/hf_config_for_test.h"

namespace duo {
namespace {

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
  const Json scaling = {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}};
  const HfConfig hf = Good(With(Base(), scaling));
  EXPECT_EQ(hf.rope.type, RopeType::kDynamic);
  EXPECT_EQ(hf.max_context, 4096);
  EXPECT_EQ(hf.max_context_reason, "dynamic RoPE");
  const HfConfig window = Good(With(With(Base("mistral"), scaling), {{"sliding_window", 1024}}));
  EXPECT_EQ(window.max_context, 1024);
  EXPECT_EQ(window.max_context_reason, "sliding_window 1024");
}

TEST(HfRope, YarnStretchesTheTrainedContext) {
  const auto trained = [](int64_t positions, const Json& yarn) {
    const Json config = With(Base("qwen2"), {{"max_position_embeddings", positions}, {"rope_scaling", yarn}});
    const HfConfig hf = Good(config);
    EXPECT_EQ(hf.max_position_embeddings, positions);
    EXPECT_EQ(hf.max_context, 0);
    return hf.trained_context;
  };
  const Json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  EXPECT_EQ(trained(32768, yarn), 131072);
  EXPECT_EQ(trained(40960, yarn), 131072);
  EXPECT_EQ(trained(131072, yarn), 131072);
  EXPECT_EQ(trained(262144, yarn), 262144);
  EXPECT_EQ(trained(32768, {{"rope_type", "yarn"}, {"factor", 2.5}}), 81920);
  EXPECT_EQ(trained(32768, With(yarn, {{"factor", 1e12}})), int64_t{1} << 40);
  EXPECT_EQ(trained(32768, {{"rope_type", "linear"}, {"factor", 4.0}}), 32768);
  const Json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  EXPECT_EQ(trained(16384, llama3), 16384);
}

TEST(HfRope, UnknownKeysAreRefusedByName) {
  const auto refused = [](const Json& scaling, const std::string& sentence) {
    ExpectRefused(With(Base("qwen3"), {{"rope_scaling", scaling}}), StatusCode::kUnsupported, sentence);
  };
  const Json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}};
  refused(With(yarn, {{"facter", 8.0}}), "rope_scaling: facter 8.0: duo knows no such key for rope type yarn (");
  refused(With(yarn, {{"attn_factor", 0.8782488562869419}}), "attn_factor 0.8782488562869419: duo knows no such key");
  refused(With(yarn, {{"low_freq_factor", 1.0}}), "low_freq_factor");
  refused({{"type", "dynamic"}, {"factor", 1.0}, {"alpha", 1000.0}}, "alpha 1000.0");
  refused({{"type", "linear"}, {"factor", 4.0}, {"beta_fast", 32}}, "beta_fast");
  refused({{"rope_type", "default"}, {"factor", 8.0}}, "factor 8.0");
  ExpectRefused(With(Base(), {{"rope_parameters", {{"full_attention", {{"rope_typ", "yarn"}}}}}}),
                StatusCode::kUnsupported, "rope_parameters.full_attention: rope_typ");
}

TEST(HfRope, KeysThatChangeNothingAreAccepted) {
  const auto accepted = [](const Json& scaling) { Good(With(Base("qwen2"), {{"rope_scaling", scaling}})); };
  const Json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}};
  accepted(With(yarn, {{"type", "yarn"}, {"rope_theta", 1e6}, {"finetuned", true}, {"partial_rotary_factor", 1.0}}));
  accepted(With(yarn, {{"attn_factor", 1}, {"extrapolation_factor", 1.0}, {"facter", nullptr}}));
  accepted({{"rope_type", "default"}, {"factor", 1.0}, {"mrope_section", {2, 3, 3}}});
  accepted({{"type", "linear"}, {"factor", 4.0}, {"original_max_position_embeddings", 4096}});
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

}  // namespace
}  // namespace duo
