#include "checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <numeric>

#include "base/bf16.h"
#include "base/data_for_test.h"
#include "base/memory_info.h"
#include "base/temp_dir_for_test.h"
#include "checkpoint/safetensors_bytes_for_test.h"

namespace duo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kTwo =
    R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})";
constexpr const char* kOnlyA = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
constexpr const char* kOnlyB = R"({"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}})";

TEST(Checkpoint, OpensASingleFile) {
  const TempDir dir;
  dir.Write("model.safetensors", SafetensorsBytes(kTwo, 12));
  Result<Checkpoint> opened = Checkpoint::Open(dir.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const Result<TensorView> before = opened->Get("b");
  const Checkpoint checkpoint = std::move(opened).value();
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b"));
  EXPECT_EQ(checkpoint.total_bytes(), 12u);
  EXPECT_EQ(checkpoint.dir(), dir.path());
  const Result<TensorView> b = checkpoint.Get("b");
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(b->data, before->data) << "moving must keep views valid";
  EXPECT_EQ(b->dtype, DType::kBF16);
  EXPECT_EQ(b->rank, 2);
  EXPECT_EQ(b->shape[1], 2);
  const uint8_t expected[4] = {8, 9, 10, 11};
  EXPECT_EQ(std::memcmp(b->data, expected, 4), 0);
}

TEST(Checkpoint, MissingTensorNamesTensorAndDirectory) {
  const TempDir dir;
  dir.Write("model.safetensors", SafetensorsBytes(kTwo, 12));
  const Result<Checkpoint> checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_TRUE(checkpoint->Has("a"));
  EXPECT_FALSE(checkpoint->Has("lm_head.weight"));
  const Result<TensorView> missing = checkpoint->Get("lm_head.weight");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.status().message(), HasSubstr("lm_head.weight"));
  EXPECT_THAT(missing.status().message(), HasSubstr(dir.path()));
}

TEST(Checkpoint, UnalignedTensorsAreCopiedIntoPlace) {
  const TempDir dir;
  for (size_t padding = 0; padding < 4; ++padding) {
    dir.Write("model.safetensors", SafetensorsBytes(std::string(kTwo) + std::string(padding, ' '), 12));
    const Result<Checkpoint> checkpoint = Checkpoint::Open(dir.path());
    ASSERT_TRUE(checkpoint.ok());
    const Result<TensorView> a = checkpoint->Get("a");
    ASSERT_TRUE(a.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a->data) % 4, 0u);
    const uint8_t expected[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    EXPECT_EQ(std::memcmp(a->data, expected, 8), 0);
  }
}

TEST(Checkpoint, OddTypesAndRanksAreRefusedOnlyWhenAskedFor) {
  const TempDir dir;
  dir.Write("model.safetensors", SafetensorsBytes(R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                                                  R"("deep":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[8,12]},)"
                                                  R"("w":{"dtype":"F16","shape":[],"data_offsets":[12,14]}})",
                                                  14));
  const Result<Checkpoint> checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_TRUE(checkpoint->Get("w").ok());
  EXPECT_EQ(checkpoint->Get("w")->size(), 1);
  EXPECT_EQ(checkpoint->Get("ids").status().code(), StatusCode::kUnsupported);
  EXPECT_THAT(checkpoint->Get("ids").status().message(), HasSubstr("ids: element type I64"));
  EXPECT_EQ(checkpoint->Get("deep").status().code(), StatusCode::kUnsupported);
}

TEST(Checkpoint, OpensShards) {
  const TempDir dir;
  dir.Write("one.safetensors", SafetensorsBytes(kOnlyA, 8));
  dir.Write("two.safetensors", SafetensorsBytes(kOnlyB, 4));
  dir.Write("model.safetensors.index.json",
            R"({"metadata":{"total_size":12},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const Result<Checkpoint> checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_THAT(checkpoint->names(), ElementsAre("a", "b"));
  EXPECT_EQ(static_cast<const uint8_t*>(checkpoint->Get("b")->data)[3], 3);
}

void ExpectIndexRefused(const std::string& index, StatusCode code, const std::string& sentence) {
  const TempDir dir;
  dir.Write("one.safetensors", SafetensorsBytes(kOnlyA, 8));
  dir.Write("model.safetensors.index.json", index);
  const Result<Checkpoint> checkpoint = Checkpoint::Open(dir.path());
  ASSERT_FALSE(checkpoint.ok()) << index;
  EXPECT_EQ(checkpoint.status().code(), code) << index;
  EXPECT_THAT(checkpoint.status().message(), HasSubstr(sentence)) << index;
}

TEST(Checkpoint, WhatIsForgottenIsNotResidentAndCanBeReadAgain) {
  constexpr size_t kBytes = size_t{32} << 20;
  const TempDir dir;
  const std::string header = R"({"a":{"dtype":"U8","shape":[)" + std::to_string(kBytes) + R"(],"data_offsets":[0,)" +
                             std::to_string(kBytes) + "]}}";
  dir.Write("model.safetensors", SafetensorsBytes(header, kBytes));
  const Checkpoint checkpoint = Checkpoint::Open(dir.path()).value();
  const TensorView tensor = checkpoint.Get("a").value();
  const auto sum = [&] {
    const auto* const bytes = static_cast<const uint8_t*>(tensor.data);
    return std::accumulate(bytes, bytes + kBytes, uint64_t{0});
  };
  const uint64_t before = sum();
  const uint64_t resident = CurrentRssBytes();
  checkpoint.Forget(tensor);
  EXPECT_LT(CurrentRssBytes(), resident - kBytes / 2);
  EXPECT_EQ(sum(), before);
}

TEST(Checkpoint, RefusesIndexesThatLie) {
  ExpectIndexRefused(R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})", StatusCode::kNotFound,
                     "two.safetensors: this shard is missing");
  ExpectIndexRefused(R"({"weight_map":{"a":7}})", StatusCode::kCorrupt, "a: expected a shard's file name");
  ExpectIndexRefused(R"({"weight_map":[]})", StatusCode::kCorrupt, "weight_map: expected an object");
  ExpectIndexRefused(R"([])", StatusCode::kCorrupt, "weight_map: expected an object");
  ExpectIndexRefused("{", StatusCode::kCorrupt, "model.safetensors.index.json");
}

// In old Llama checkpoints the index still lists RoPE tables that the shards no longer have.
TEST(Checkpoint, AnIndexMayListWhatNobodyNeeds) {
  const TempDir dir;
  dir.Write("one.safetensors", SafetensorsBytes(kTwo, 12));
  dir.Write("model.safetensors.index.json",
            R"({"weight_map":{"a":"one.safetensors","x.rotary_emb.inv_freq":"one.safetensors"}})");
  const Result<Checkpoint> checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_THAT(checkpoint->names(), ElementsAre("a", "b")) << "b is in the shard, though not in the index";
  const Status asked = checkpoint->Get("x.rotary_emb.inv_freq").status();
  EXPECT_EQ(asked.code(), StatusCode::kCorrupt);
  EXPECT_THAT(asked.message(), HasSubstr("weight_map: x.rotary_emb.inv_freq is not in its shard one.safetensors"));
}

TEST(Checkpoint, TheIndexSaysWhichOfTwoTensorsWithOneNameCounts) {
  const TempDir dir;
  const std::string values = SafetensorsBytes(kOnlyA, 8);
  dir.Write("one.safetensors", values);
  dir.Write("two.safetensors", values.substr(0, values.size() - 8) + std::string(8, 'x'));
  dir.Write("three.safetensors", SafetensorsBytes(kOnlyB, 4));
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"a":"two.safetensors","b":"three.safetensors"}})");
  EXPECT_EQ(static_cast<const char*>(Checkpoint::Open(dir.path())->Get("a")->data)[0], 'x');
  dir.Write("model.safetensors.index.json",
            R"({"weight_map":{"a":"two.safetensors","b":"three.safetensors","c":"one.safetensors"}})");
  EXPECT_EQ(static_cast<const char*>(Checkpoint::Open(dir.path())->Get("a")->data)[0], 'x');
}

// AutoModel saves only the inner model, whose tensor names have no "model.".
TEST(Checkpoint, NamesWithoutTheirPrefixGetIt) {
  const TempDir dir;
  dir.Write("model.safetensors",
            SafetensorsBytes(R"({"embed_tokens.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                             R"("layers.0.mlp.up_proj.weight":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},)"
                             R"("norm.weight":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},)"
                             R"("lm_head.weight":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})",
                             16));
  const Result<Checkpoint> checkpoint = Checkpoint::Open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_THAT(checkpoint->names(), ElementsAre("lm_head.weight", "model.embed_tokens.weight",
                                               "model.layers.0.mlp.up_proj.weight", "model.norm.weight"));
  EXPECT_EQ(static_cast<const uint8_t*>(checkpoint->Get("model.norm.weight")->data)[0], 8);
}

TEST(Checkpoint, LinksToNothingAndLfsPointersAreNamed) {
  const TempDir dir;
  std::filesystem::create_symlink("../../blobs/abc", dir.file("model.safetensors"));
  const std::string nothing = ": is a link to ../../blobs/abc, which does not exist";
  EXPECT_THAT(Checkpoint::Open(dir.path()).status().message(), HasSubstr(dir.file("model.safetensors") + nothing));
  std::filesystem::remove(dir.file("model.safetensors"));
  dir.Write("model.safetensors", kLfsPointerForTest);
  EXPECT_THAT(Checkpoint::Open(dir.path()).status().message(), HasSubstr("model.safetensors: is a git-lfs pointer"));
  std::filesystem::remove(dir.file("model.safetensors"));
  dir.Write("model.safetensors.index.json", kLfsPointerForTest);
  EXPECT_THAT(Checkpoint::Open(dir.path()).status().message(), HasSubstr("index.json: is a git-lfs pointer"));
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"a":"one.safetensors"}})");
  std::filesystem::create_symlink("../../blobs/abc", dir.file("one.safetensors"));
  EXPECT_THAT(Checkpoint::Open(dir.path()).status().message(), HasSubstr(dir.file("one.safetensors") + nothing));
}

TEST(Checkpoint, ShardsStayInTheirDirectory) {
  for (const char* shard : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".", "", "a\\\\b"}) {
    ExpectIndexRefused(std::string(R"({"weight_map":{"a":")") + shard + "\"}}", StatusCode::kCorrupt,
                       "is not the name of a file in this directory");
  }
  ExpectIndexRefused(R"({"weight_map":{"a":"one.safetensors\u0000.txt"}})", StatusCode::kCorrupt, "not the name");
}

TEST(Checkpoint, ATruncatedFileNamesItself) {
  const TempDir dir;
  dir.Write("model.safetensors", SafetensorsBytes(kTwo, 11));
  const Result<Checkpoint> checkpoint = Checkpoint::Open(dir.path());
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_EQ(checkpoint.status().code(), StatusCode::kCorrupt);
  EXPECT_THAT(checkpoint.status().message(), HasSubstr(dir.file("model.safetensors") + ": tensor b"));
}

TEST(Checkpoint, SaysWhatItLookedFor) {
  const TempDir dir;
  EXPECT_EQ(Checkpoint::Open(dir.path()).status().code(), StatusCode::kNotFound);
  EXPECT_THAT(Checkpoint::Open(dir.path()).status().message(), HasSubstr("model.safetensors.index.json"));
  EXPECT_THAT(Checkpoint::Open(dir.file("nowhere")).status().message(), HasSubstr("no such model directory"));
}

TEST(Checkpoint, OpensTheEmbeddedModel) {
  const Result<Checkpoint> checkpoint = Checkpoint::Open(SourceDir() + "/models/demo");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  const Result<TensorView> embedding = checkpoint->Get("model.embed_tokens.weight");
  ASSERT_TRUE(embedding.ok()) << embedding.status().message();
  EXPECT_EQ(embedding->rank, 2);
  EXPECT_EQ(embedding->shape[0], 1024);
  EXPECT_EQ(embedding->shape[1], 128);
}

TEST(Checkpoint, OpensTheGoldenModels) {
  const std::string golden = SharedData("golden");
  if (golden.empty()) GTEST_SKIP() << "SKIPPED: no golden models in DUO_SHARED_DIR";
  for (const char* name : {"llama3_rope", "llama_gqa", "mistral_headdim", "qwen2_bias"}) {
    const Result<Checkpoint> checkpoint = Checkpoint::Open(golden + "/" + name);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    EXPECT_EQ(checkpoint->Get("model.norm.weight")->shape[0], 128) << name;
  }
}

}  // namespace
}  // namespace duo
