// Contents of config.json for small models, and checks of the result of reading them.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "checkpoint/hf_config.h"

namespace duo {

inline Json Base(const char* model_type = "llama") {
  return Json{{"model_type", model_type},     {"vocab_size", 1000},     {"hidden_size", 128},
              {"intermediate_size", 384},     {"num_hidden_layers", 4}, {"num_attention_heads", 8},
              {"num_key_value_heads", 2},     {"rms_norm_eps", 1e-5},   {"max_position_embeddings", 4096},
              {"tie_word_embeddings", false}, {"rope_theta", 500000.0}, {"hidden_act", "silu"},
              {"torch_dtype", "bfloat16"},    {"bos_token_id", 1}};
}

inline Json With(Json config, const Json& changes) {
  config.update(changes);
  return config;
}

inline HfConfig Good(const Json& config, const Json& generation = Json()) {
  const Result<HfConfig> result = ParseHfConfig(config, generation, "config.json");
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? *result : HfConfig();
}

inline void ExpectRefused(const Json& config, StatusCode code, const std::string& sentence) {
  const Result<HfConfig> result = ParseHfConfig(config, Json(), "dir/config.json");
  ASSERT_FALSE(result.ok()) << config.dump();
  EXPECT_EQ(result.status().code(), code) << result.status().message();
  EXPECT_THAT(result.status().message(), ::testing::HasSubstr("dir/config.json: "));
  EXPECT_THAT(result.status().message(), ::testing::HasSubstr(sentence));
}

}  // namespace duo
