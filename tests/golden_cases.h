// Golden models: an independent float64 implementation computed their outputs, and a session is compared with these.
// The cases are in tests/data/golden (made by tools/make_golden.py) and in DUO_SHARED_DIR/golden.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "attention/duo_attention.h"
#include "base/data_for_test.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "checkpoint/safetensors.h"
#include "duo/head_pattern.h"
#include "duo/model.h"
#include "duo/session.h"
#include "engine/session_layout.h"
#include "kv/split_kv_cache.h"
#include "model/activations.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace duo::golden {

struct Golden {
  std::string dir;
  std::vector<int32_t> prompt;
  std::vector<int64_t> positions;
  std::vector<float> logits_full, logits_duo;  // [n_positions, vocab]
  std::vector<float> hidden_full, hidden_duo;  // [hidden], last position
  std::vector<int32_t> greedy_full, greedy_duo;
  std::vector<std::vector<int>> retrieval;
  int64_t sink = 0, recent = 0;
  double sparsity = 0;
};

template <typename T>
std::vector<T> ReadTensor(const MappedFile& file, const safetensors::Header& header, const char* name) {
  const auto it = header.find(name);
  if (it == header.end()) return {};
  const safetensors::Entry& entry = it->second;
  const size_t n =
      entry.bytes / (entry.type == safetensors::Type::kF64 || entry.type == safetensors::Type::kI64 ? 8 : 4);
  std::vector<T> out(n);
  for (size_t i = 0; i < n; ++i) {
    const uint8_t* at = file.data() + entry.begin;
    if (entry.type == safetensors::Type::kF64) {
      double x;
      std::memcpy(&x, at + 8 * i, 8);
      out[i] = static_cast<T>(x);
    } else if (entry.type == safetensors::Type::kI64) {
      int64_t x;
      std::memcpy(&x, at + 8 * i, 8);
      out[i] = static_cast<T>(x);
    } else if (entry.type == safetensors::Type::kI32) {
      int32_t x;
      std::memcpy(&x, at + 4 * i, 4);
      out[i] = static_cast<T>(x);
    } else {
      float x;
      std::memcpy(&x, at + 4 * i, 4);
      out[i] = static_cast<T>(x);
    }
  }
  return out;
}

inline Golden LoadGolden(const std::string& dir) {
  Golden g;
  g.dir = dir;
  auto text = ReadFile(dir + "/golden.json", 64 << 20);
  auto json = ParseJson(text.value(), dir);
  const Json& j = json.value();
  g.prompt = j.at("prompt_ids").get<std::vector<int32_t>>();
  g.greedy_full = j.at("greedy_full").get<std::vector<int32_t>>();
  g.greedy_duo = j.at("greedy_duo").get<std::vector<int32_t>>();
  g.retrieval = j.at("retrieval_heads").get<std::vector<std::vector<int>>>();
  g.sink = j.at("sink").get<int64_t>();
  g.recent = j.at("recent").get<int64_t>();
  g.sparsity = j.at("sparsity").get<double>();
  auto file = MappedFile::Open(dir + "/golden.safetensors");
  auto header = safetensors::ParseHeader(file->data(), file->size(), dir);
  g.positions = ReadTensor<int64_t>(*file, *header, "positions");
  g.logits_full = ReadTensor<float>(*file, *header, "logits_full");
  g.logits_duo = ReadTensor<float>(*file, *header, "logits_duo");
  g.hidden_full = ReadTensor<float>(*file, *header, "hidden_full_last");
  g.hidden_duo = ReadTensor<float>(*file, *header, "hidden_duo_last");
  return g;
}

inline std::vector<std::string> CaseDirs() {
  std::vector<std::string> dirs;
  for (const std::string& root : {SourceDir() + "/tests/data/golden", SharedData("golden")}) {
    if (root.empty()) continue;
    for (const auto& entry : std::filesystem::directory_iterator(root)) {
      if (FileExists(entry.path().string() + "/golden.json")) dirs.push_back(entry.path().string());
    }
  }
  std::sort(dirs.begin(), dirs.end());
  return dirs;
}

inline bool IsOwn(const std::string& dir) { return dir.find("/tests/data/") != std::string::npos; }

// The tolerance of the golden models is 2e-4 of the largest absolute value of the expected rows.
inline void ExpectClose(std::span<const float> got, const std::vector<float>& expected, const char* what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  float largest = 0, worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::fabs(expected[i]));
    const float error = std::fabs(got[i] - expected[i]);
    worst = std::max(worst, std::isnan(error) ? INFINITY : error);
  }
  EXPECT_LE(worst, 2e-4f * largest) << what;
}

/// Hidden state after the last of the ids and the final norm, [hidden].
inline std::vector<float> LastHidden(const Model& model, const SessionOptions& options, std::span<const int32_t> ids) {
  const Model::Weights& w = model.weights();
  const auto n = std::ssize(ids);
  SessionOptions resolved = options;
  resolved.max_context = n;
  const KvLayout layout = LayoutOf(w.config, ResolveOptions(w.config, resolved).value());
  SplitKvCache cache = SplitKvCache::Create(w.backend, layout).value();
  DuoAttention attention = DuoAttention::Create(w.backend, layout, n).value();
  Activations activations = Activations::Create(w.backend, w.config, n).value();
  Transformer transformer(w, options.compute);
  std::vector<float> hidden(w.config.hidden_size);
  EXPECT_TRUE(transformer.Forward(ids, TokenKind::kPrompt, {&cache, &attention, &activations}).ok());
  EXPECT_TRUE(transformer.Hidden(activations.x, n - 1, 1, activations, hidden.data()).ok());
  return hidden;
}

/// Checks prompt and greedy tokens for one choice of heads. Computes in f32, with K and V in f32.
inline void CheckMode(const Model& model, const Golden& golden, const HeadChoice& heads, int64_t chunk) {
  const bool duo_mode = heads.sparsity() > 0;
  SessionOptions options;
  options.heads = heads;
  options.sink = golden.sink;
  options.recent = golden.recent;
  options.chunk = chunk;
  options.compute = ComputeType::kF32;
  options.kv_type = KvType::kF32;
  auto session = Session::Create(model, options);
  ASSERT_TRUE(session.ok()) << session.status().message();
  std::map<int64_t, std::vector<float>> by_position;
  const Status status = session->PrefillWithLogits(golden.prompt, 0, std::ssize(golden.prompt),
                                                   [&](int64_t pos, std::span<const float> logits) {
                                                     by_position[pos].assign(logits.begin(), logits.end());
                                                     return OkStatus();
                                                   });
  ASSERT_TRUE(status.ok()) << status.message();
  std::vector<float> rows;
  for (const int64_t pos : golden.positions) {
    rows.insert(rows.end(), by_position[pos].begin(), by_position[pos].end());
  }
  ExpectClose(rows, duo_mode ? golden.logits_duo : golden.logits_full, "logits");
  ExpectClose(LastHidden(model, options, golden.prompt), duo_mode ? golden.hidden_duo : golden.hidden_full, "hidden");
  std::vector<int32_t> greedy;
  for (size_t i = 0; i < golden.greedy_full.size(); ++i) {
    const auto logits = session->logits();
    greedy.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    ASSERT_TRUE(session->Decode(greedy.back()).ok());
  }
  EXPECT_EQ(greedy, duo_mode ? golden.greedy_duo : golden.greedy_full);
}

}  // namespace duo::golden
