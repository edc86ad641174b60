// Tests a model whose file changes while it is mapped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "base/data_for_test.h"
#include "base/temp_dir_for_test.h"
#include "duo/generate.h"
#include "duo/session.h"
#include "engine/serving.h"

namespace duo {
namespace {

using testing::HasSubstr;

class ChangedFiles : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"config.json", "model.safetensors"}) {
      std::filesystem::copy_file(SourceDir() + "/models/demo/" + name, dir_.file(name));
    }
    backend_ = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
    model_.emplace(Model::Open(dir_.path(), backend_.get()).value());
  }
  std::string File() const { return dir_.file("model.safetensors"); }
  void Append(const std::string& path) { std::ofstream(path, std::ios::app | std::ios::binary) << 'x'; }
  Status Run() {
    Session session = Session::Create(*model_, {}).value();
    GenerateOptions options;
    options.max_tokens = 2;
    return Generate(&session, *model_, nullptr, {1, 2, 3}, options).status();
  }

  TempDir dir_;
  BackendPtr backend_;
  std::optional<Model> model_;
};

TEST_F(ChangedFiles, AFileThatIsWrittenToEndsEveryUse) {
  EXPECT_TRUE(model_->CheckFiles().ok());
  EXPECT_TRUE(Run().ok());
  const auto then = std::filesystem::last_write_time(File());
  const auto size = std::filesystem::file_size(File());
  Append(File());
  const Status run = Run();
  EXPECT_EQ(run.code(), StatusCode::kUnavailable);
  EXPECT_THAT(run.message(), HasSubstr(File() + ": was written to"));
  EXPECT_EQ(model_->CheckFiles().code(), StatusCode::kUnavailable);
  EXPECT_EQ(CheckForWrites(*model_).code(), StatusCode::kUnavailable);
  std::filesystem::resize_file(File(), size);
  std::filesystem::last_write_time(File(), then);
  EXPECT_EQ(Run().code(), StatusCode::kUnavailable) << "results since the write may be wrong";
  Session session = Session::Create(*model_, {}).value();
  EXPECT_EQ(session.Prefill(std::vector<int32_t>{1}).code(), StatusCode::kUnavailable);
  const auto row = [](int64_t, std::span<const float>) { return OkStatus(); };
  EXPECT_EQ(session.PrefillWithLogits(std::vector<int32_t>{1}, 0, 1, row).code(), StatusCode::kUnavailable);
}

TEST_F(ChangedFiles, ATouchedFileCountsAsWrittenTo) {
  std::filesystem::last_write_time(File(), std::filesystem::last_write_time(File()) + std::chrono::seconds(1));
  EXPECT_EQ(model_->CheckFiles().code(), StatusCode::kUnavailable);
}

TEST_F(ChangedFiles, AReplacedFileIsSaidButItsOldBytesAreWhole) {
  std::filesystem::copy_file(File(), File() + ".new");
  std::filesystem::rename(File() + ".new", File());
  const Status status = model_->CheckFiles();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr(File() + ": is another file"));
  EXPECT_TRUE(CheckForWrites(*model_).ok());
  EXPECT_TRUE(Run().ok());
}

TEST_F(ChangedFiles, ARemovedFileIsStillWhole) {
  std::filesystem::remove(File());
  EXPECT_TRUE(model_->CheckFiles().ok());
  EXPECT_TRUE(Run().ok());
}

TEST_F(ChangedFiles, WhatIsNotUsedWhereItIsMappedMayChange) {
  const Model quantised =
      Model::Open(dir_.path(), backend_.get(), {.weights = WeightType::kInt8, .progress = {}}).value();
  EXPECT_EQ(quantised.mapped_bytes(), 0u);
  Append(File());
  EXPECT_TRUE(quantised.CheckFiles().ok());
  EXPECT_FALSE(model_->CheckFiles().ok());
}

}  // namespace
}  // namespace duo
