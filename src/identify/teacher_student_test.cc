// Tests of the two streams on the golden models. Compares loss and gradient with the float64 oracle, and checks
// properties that hold for any model.
#include "identify/teacher_student.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "base/data_for_test.h"
#include "base/file.h"
#include "base/json.h"
#include "duo/head_pattern.h"
#include "model/tiny_config_for_test.h"

namespace duo {
namespace {

struct Case {
  std::string dir;
  std::vector<int32_t> ids;
  TwoStreamOptions options;
  LabelRange labels;
  std::vector<double> gates;
  double distill = 0, reg_weight = 0;
  std::vector<double> gradients;  // gradient of distill + reg_weight * mean |gate|
};

Case Load(const std::string& dir) {
  Case c;
  c.dir = dir;
  const Json golden = ParseJson(ReadFile(dir + "/golden.json", 64 << 20).value(), dir).value();
  const HeadPattern pattern = LoadHeadPattern(dir + "/pattern").value();
  c.ids = golden.at("prompt_ids").get<std::vector<int32_t>>();
  c.options = {.sink = golden.at("sink").get<int64_t>(),
               .recent = golden.at("recent").get<int64_t>(),
               .max_tokens = std::ssize(c.ids),
               .compute = ComputeType::kF32};
  const Json& identify = golden.at("identify");
  c.labels = {identify.at("label_positions").at(0).get<int64_t>(),
              identify.at("label_positions").at(1).get<int64_t>() + 1};
  c.gates = pattern.gates;
  c.distill = identify.at("distill_loss").get<double>();
  c.reg_weight = identify.at("reg_weight").get<double>();
  for (const Json& row : identify.at("alpha_grad")) {
    for (const Json& g : row) c.gradients.push_back(g.get<double>());
  }
  return c;
}

std::vector<std::string> CaseDirs() {
  std::vector<std::string> dirs;
  for (const std::string& root : {SourceDir() + "/tests/data/golden", SharedData("golden")}) {
    if (!IsDirectory(root)) continue;
    for (const auto& entry : std::filesystem::directory_iterator(root)) {
      if (FileExists(entry.path().string() + "/golden.json")) dirs.push_back(entry.path().string());
    }
  }
  std::sort(dirs.begin(), dirs.end());
  return dirs;
}

class TeacherStudentTest : public testing::TestWithParam<std::string> {
 protected:
  void Open(int n_threads) {
    backend = CreateBackend({.n_threads = n_threads}).value();
    Result<Model> opened = Model::Open(c.dir, backend.get());
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    model = std::make_unique<Model>(std::move(opened).value());
    Result<TeacherStudent> made = TeacherStudent::Create(*model, c.options);
    ASSERT_TRUE(made.ok()) << made.status().message();
    streams = std::make_unique<TeacherStudent>(std::move(made).value());
  }
  TwoStreamLoss Loss(const std::vector<double>& gates) {
    Result<TwoStreamLoss> loss = streams->Loss(c.ids, c.labels, gates);
    EXPECT_TRUE(loss.ok()) << loss.status().message();
    return std::move(loss).value();
  }
  Case c = Load(GetParam());
  BackendPtr backend;
  std::unique_ptr<Model> model;
  std::unique_ptr<TeacherStudent> streams;
};

INSTANTIATE_TEST_SUITE_P(Golden, TeacherStudentTest, testing::ValuesIn(CaseDirs()), [](const auto& test) {
  const std::string name = std::filesystem::path(test.param).filename().string();
  return name + (test.param.find("/tests/data/") == std::string::npos ? "_shared" : "");
});

TEST_P(TeacherStudentTest, AgreesWithTheOracle) {
  for (const int n_threads : {1, 2}) {
    Open(n_threads);
    const TwoStreamLoss loss = Loss(c.gates);
    EXPECT_NEAR(loss.distill, c.distill, 1e-4 * c.distill);
    const auto n = static_cast<double>(c.gates.size());
    double largest = 0;
    for (const double g : c.gradients) largest = std::max(largest, std::fabs(g));
    ASSERT_EQ(loss.gate_gradients.size(), c.gradients.size());
    for (size_t i = 0; i < c.gradients.size(); ++i) {
      EXPECT_NEAR(loss.gate_gradients[i] + c.reg_weight / n, c.gradients[i], 1e-3 * largest) << "gate " << i;
    }
  }
}

TEST_P(TeacherStudentTest, GatesOfOneAreTheTeacher) {
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
    c.options.compute = compute;
    Open(1);
    EXPECT_EQ(Loss(std::vector<double>(c.gates.size(), 1.0)).distill, 0.0);
  }
}

TEST_P(TeacherStudentTest, AWindowOverEverythingIsTheTeacher) {
  c.options.recent = std::ssize(c.ids);
  Open(1);
  EXPECT_LT(Loss(std::vector<double>(c.gates.size(), 0.0)).distill, 1e-10);
}

TEST_P(TeacherStudentTest, IsTheSameBitForBitAndForLongerScratch) {
  Open(2);
  const TwoStreamLoss first = Loss(c.gates), second = Loss(c.gates);
  EXPECT_EQ(first.distill, second.distill);
  EXPECT_EQ(first.gate_gradients, second.gate_gradients);
  c.options.max_tokens += 100;
  Open(2);
  const TwoStreamLoss roomier = Loss(c.gates);
  EXPECT_EQ(first.distill, roomier.distill);
  EXPECT_EQ(first.gate_gradients, roomier.gate_gradients);
}

// bf16 products round to 2^-9, so the loss of a model with strong attention changes by some per cent.
TEST_P(TeacherStudentTest, Bf16IsNear) {
  c.options.compute = ComputeType::kBF16;
  Open(1);
  const TwoStreamLoss loss = Loss(c.gates);
  EXPECT_NEAR(loss.distill, c.distill, 0.1 * c.distill);
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < c.gradients.size(); ++i) {
    const double expected = c.gradients[i] - c.reg_weight / static_cast<double>(c.gates.size());
    dot += loss.gate_gradients[i] * expected, a += loss.gate_gradients[i] * loss.gate_gradients[i];
    b += expected * expected;
  }
  EXPECT_GT(dot / std::sqrt(a * b), 0.98);
}

TEST(TeacherStudent, CountsItsOperations) {
  const ModelConfig c = TinyConfig();  // 3 layers, 4 heads of 16 with 2 KV heads, hidden size 48, MLP of 80
  for (const int64_t n : {2, 3, 9}) {
    double full = 0, streaming = 0;  // pairs of a query and a key
    for (int64_t query = 0; query < n; ++query) {
      full += static_cast<double>(query + 1);
      streaming += static_cast<double>(std::min<int64_t>(query + 1, 1 + 2));
    }
    const double qkv = 48 * (64 + 2 * 32), out = 64 * 48, mlp = 48 * 80;
    double products = 0, pairs = 0;
    for (int layer = 0; layer < 3; ++layer) {
      products += 2 * (qkv + out + 3 * mlp);               // teacher and student
      products += qkv + out + 2 * mlp;                     // recomputation
      products += (layer == 0 ? 0 : qkv) + out + 3 * mlp;  // gradient
      pairs += 2 * full + (2 + 2) * streaming + (layer == 0 ? 0 : 5) * streaming;
    }
    EXPECT_DOUBLE_EQ(TeacherStudent::Flops(c, {.sink = 1, .recent = 2}, n),
                     2 * (products * static_cast<double>(n) + pairs * 64));
  }
}

TEST_P(TeacherStudentTest, BadArgumentsAreErrors) {
  Open(1);
  const auto code = [&](const std::vector<int32_t>& ids, LabelRange labels, const std::vector<double>& gates) {
    return streams->Loss(ids, labels, gates).status().code();
  };
  EXPECT_EQ(code({1}, {0, 1}, c.gates), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, -1}, {0, 1}, c.gates), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2}, {0, 3}, c.gates), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2}, {1, 1}, c.gates), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1, 2}, {1, 2}, {0.5}), StatusCode::kInvalidArgument);
  std::vector<double> nan = c.gates;
  nan[0] = std::nan("");
  EXPECT_EQ(code({1, 2}, {1, 2}, nan), StatusCode::kInvalidArgument);
  EXPECT_EQ(streams->Loss(c.ids, c.labels, c.gates, [] { return false; }).status().code(), StatusCode::kCancelled);
  TwoStreamOptions endless = c.options;
  endless.max_tokens = 1;
  EXPECT_EQ(TeacherStudent::Create(*model, endless).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace duo
