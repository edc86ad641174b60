#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "base/temp_dir_for_test.h"
#include "checkpoint/safetensors.h"
#include "duo/session.h"
#include "model/tiny_config_for_test.h"

namespace duo {
namespace {

class SessionFileTest : public testing::Test {
 protected:
  void SetUp() override {
    backend_ = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
    model_.emplace(Model::Random(TinyConfig(), 0, 5, backend_.get()).value());
    Rng rng(11);
    for (int i = 0; i < 150; ++i) prompt_.push_back(static_cast<int32_t>(rng.Below(97)));
    path_ = dir_.path() + "/tale.session";
  }
  static SessionOptions Split(KvType type = KvType::kF32) {
    SessionOptions options;
    options.heads = {.n_layers = 3, .n_kv_heads = 2, .retrieval = {1, 0, 0, 0, 0, 1}};
    options.compute = ComputeType::kF32;
    options.kv_type = type;
    options.sink = 4;
    options.recent = 20;
    options.snapshot_every = 32;
    options.chunk = 64;
    return options;
  }
  Session Make(const SessionOptions& options) const { return Session::Create(*model_, options).value(); }
  Status LoadStatus(const SessionOptions& options) const { return Session::Load(*model_, options, path_).status(); }
  static std::vector<float> After(Session* session, int32_t id) {
    EXPECT_TRUE(session->Decode(id).ok());
    return {session->logits().begin(), session->logits().end()};
  }

  TempDir dir_;
  BackendPtr backend_;
  std::optional<Model> model_;
  std::vector<int32_t> prompt_;
  std::string path_;
};

TEST_F(SessionFileTest, GoesOnExactlyWhereItWasSaved) {
  for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kInt8, KvType::kInt4}) {
    for (const size_t n : {1, 3, 20, 33, 150}) {
      for (const bool full : {false, true}) {
        SCOPED_TRACE(std::string(KvTypeName(type)) + " " + std::to_string(n) + (full ? " full" : ""));
        SessionOptions options = Split(type);
        if (full) options.heads = {};
        options.prefill_recent = 25;
        Session session = Make(options);
        ASSERT_TRUE(session.Prefill(std::span<const int32_t>(prompt_).first(n)).ok());
        for (int i = 0; i < 5; ++i) ASSERT_TRUE(session.Decode(i).ok());
        const Status saved = session.Save(path_, "a note");
        ASSERT_TRUE(saved.ok()) << saved.message();
        const SessionFileInfo info = ReadSessionFileInfo(path_).value();
        EXPECT_EQ(info.note, "a note");
        EXPECT_EQ(info.n_tokens, session.len());
        auto loaded = Session::Load(*model_, options, path_);
        ASSERT_TRUE(loaded.ok()) << loaded.status().message();
        EXPECT_EQ(loaded->tokens(), session.tokens());
        EXPECT_TRUE(loaded->logits().empty());
        EXPECT_EQ(loaded->kv_bytes(), session.kv_bytes());
        EXPECT_EQ(loaded->CommonPrefix(session.tokens()), session.CommonPrefix(session.tokens())) << "kinds";
        EXPECT_EQ(After(&*loaded, 7), After(&session, 7));
        // Rewinding needs the snapshots and the rings.
        for (const int64_t pos : {session.len() - 3, session.len() / 2}) {
          if (pos < 1) continue;
          EXPECT_EQ(loaded->HeldAt(pos), session.HeldAt(pos));
          ASSERT_TRUE(loaded->Rewind(pos).ok());
          ASSERT_TRUE(session.Rewind(pos).ok());
          EXPECT_EQ(After(&*loaded, 9), After(&session, 9));
        }
      }
    }
  }
}

TEST_F(SessionFileTest, APrefixIsCopiedExactly) {
  for (const int64_t pos : {0, 1, 30, 64, 77, 149, 155}) {
    Session session = Make(Split());
    ASSERT_TRUE(session.Prefill(prompt_).ok());
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(session.Decode(i).ok());
    auto copy = session.ClonePrefix(pos);
    ASSERT_TRUE(copy.ok()) << copy.status().message();
    EXPECT_EQ(copy->len(), session.HeldAt(pos));
    EXPECT_EQ(copy->logits().empty(), pos != 155);
    const int64_t held = session.RewindToHeld(pos).value();
    ASSERT_EQ(copy->len(), held);
    EXPECT_EQ(copy->HeldAt(held / 2), session.HeldAt(held / 2));
    EXPECT_EQ(After(&*copy, 3), After(&session, 3));
  }
  EXPECT_EQ(Make(Split()).ClonePrefix(1).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(SessionFileTest, CommonPrefixCountsWhatAPromptWouldGive) {
  SessionOptions options = Split();
  Session session = Make(options);
  ASSERT_TRUE(session.Prefill(std::span<const int32_t>(prompt_).first(40)).ok());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(session.Decode(i).ok());
  std::vector<int32_t> ids(session.tokens());
  EXPECT_EQ(session.CommonPrefix(ids), 45);
  ids.push_back(1);
  EXPECT_EQ(session.CommonPrefix(ids), 45);
  ids[10] = (ids[10] + 1) % 97;
  EXPECT_EQ(session.CommonPrefix(ids), 10);
  EXPECT_EQ(session.CommonPrefix({}), 0);
  options.prefill_recent = 30;
  Session wider = Make(options);
  ASSERT_TRUE(wider.Prefill(std::span<const int32_t>(prompt_).first(40)).ok());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(wider.Decode(i).ok());
  EXPECT_EQ(wider.CommonPrefix(wider.tokens()), 40) << "generated tokens saw a shorter window";
}

TEST_F(SessionFileTest, RefusesWhatIsOfAnotherKind) {
  Session session = Make(Split());
  ASSERT_TRUE(session.Prefill(prompt_).ok());
  ASSERT_TRUE(session.Save(path_).ok());
  ASSERT_TRUE(LoadStatus(Split()).ok());
  const auto refused = [&](const SessionOptions& options, const std::string& word) {
    const Status status = LoadStatus(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(path_), std::string::npos) << status.message();
  };
  refused(Split(KvType::kBF16), "type of K and V is f32, here bf16");
  SessionOptions other = Split();
  other.heads.retrieval = {1, 0, 0, 0, 1, 0};
  refused(other, "heads");
  other = Split();
  other.sink = 5;
  refused(other, "sink");
  other = Split();
  other.recent = 21;
  refused(other, "recent");
  other = Split();
  other.snapshot_every = 16;
  refused(other, "snapshot");
  const Model stranger = Model::Random(TinyConfig(), 0, 6, backend_.get()).value();
  const Status status = Session::Load(stranger, Split(), path_).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("model"), std::string::npos) << status.message();
  other = Split();
  other.max_context = 100;
  EXPECT_EQ(LoadStatus(other).code(), StatusCode::kResourceExhausted) << "150 tokens";
  EXPECT_EQ(Session::Load(*model_, Split(), dir_.path() + "/nothing").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(session.Save(dir_.path() + "/no/such/folder").code(), StatusCode::kIo);
  EXPECT_EQ(session.Save(path_, std::string(70000, 'x')).code(), StatusCode::kInvalidArgument);
}

TEST_F(SessionFileTest, IsASafetensorsFile) {
  Session session = Make(Split());
  ASSERT_TRUE(session.Prefill(std::span<const int32_t>(prompt_).first(40)).ok());
  ASSERT_TRUE(session.Decode(7).ok());
  ASSERT_TRUE(session.Save(path_).ok());
  const std::string bytes = ReadFile(path_, 1 << 30).value();
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  const auto header = safetensors::ParseHeader(data, bytes.size(), path_);
  ASSERT_TRUE(header.ok()) << header.status().message();
  const safetensors::Entry& tokens = header->at("tokens");
  std::vector<int32_t> ids(41);
  ASSERT_EQ(tokens.bytes, ids.size() * sizeof(int32_t));
  std::memcpy(ids.data(), data + tokens.begin, tokens.bytes);
  EXPECT_EQ(ids, session.tokens());
  const safetensors::Entry& generated = header->at("generated");
  EXPECT_EQ(bytes.substr(generated.begin, generated.bytes), std::string(40, '\0') + '\1');
  for (const auto& [name, entry] : *header) {
    if (entry.type == safetensors::Type::kF32) {
      EXPECT_EQ(entry.begin % sizeof(float), 0u) << name;
    }
  }
}

TEST_F(SessionFileTest, EveryDamageIsFound) {
  Session session = Make(Split());
  ASSERT_TRUE(session.Prefill(prompt_).ok());
  ASSERT_TRUE(session.Save(path_).ok());
  const std::string whole = ReadFile(path_, 1 << 30).value();
  std::vector<size_t> places = {0, 7, 8, 16, 24, 32, 40, 60, 4095, 4096, 4100, whole.size() - 9, whole.size() - 1};
  Rng rng(3);
  for (int i = 0; i < 40; ++i) places.push_back(rng.Below(4096));
  for (int i = 0; i < 40; ++i) places.push_back(4096 + rng.Below(whole.size() - 4096));
  for (const size_t at : places) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    ASSERT_TRUE(WriteFileAtomic(path_, damaged).ok());
    EXPECT_EQ(LoadStatus(Split()).code(), StatusCode::kCorrupt)
        << "byte " << at << ": " << LoadStatus(Split()).message();
  }
  for (const size_t n : {size_t{0}, size_t{7}, size_t{39}, size_t{100}, size_t{4096}, whole.size() - 1}) {
    ASSERT_TRUE(WriteFileAtomic(path_, whole.substr(0, n)).ok());
    EXPECT_EQ(LoadStatus(Split()).code(), StatusCode::kCorrupt) << n << " bytes";
  }
  ASSERT_TRUE(WriteFileAtomic(path_, whole + "x").ok());
  EXPECT_EQ(LoadStatus(Split()).code(), StatusCode::kCorrupt);
  ASSERT_TRUE(WriteFileAtomic(path_, whole).ok());
  EXPECT_TRUE(LoadStatus(Split()).ok());
}

}  // namespace
}  // namespace duo
