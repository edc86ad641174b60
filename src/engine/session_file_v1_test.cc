// Files of format version 1: one that a program of that version wrote, and headers that it would not have written.
#include "engine/session_file_v1.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/data_for_test.h"
#include "base/file.h"
#include "base/temp_dir_for_test.h"
#include "duo/session.h"
#include "model/tiny_config_for_test.h"

namespace duo {
namespace {

std::string OldFile() { return SourceDir() + "/tests/data/sessions/version1.session"; }

SessionOptions OldOptions() {
  SessionOptions options;
  options.heads = {.n_layers = 3, .n_kv_heads = 2, .retrieval = {1, 0, 0, 0, 1, 1}};
  options.compute = ComputeType::kF32;
  options.kv_type = KvType::kInt8;
  options.sink = 2;
  options.recent = 3;
  options.snapshot_every = 8;
  return options;
}

std::vector<int32_t> OldTokens() {
  std::vector<int32_t> ids;
  for (int i = 0; i < 11; ++i) ids.push_back(i * 31 % 97);
  ids.insert(ids.end(), {40, 41});  // generated
  return ids;
}

std::vector<float> After(Session* session, int32_t id) {
  EXPECT_TRUE(session->Decode(id).ok());
  return {session->logits().begin(), session->logits().end()};
}

/// The logits are those of another computation of the same tokens, which may round its codes differently.
void ExpectClose(const std::vector<float>& got, const std::vector<float>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 0.05f * (1 + std::fabs(expected[i]))) << i;
}

TEST(SessionFileV1, GoesOnWhereItWasSaved) {
  const BackendPtr backend = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
  const Model model = Model::Random(TinyConfig(), 0, 5, backend.get()).value();
  Session fresh = Session::Create(model, OldOptions()).value();
  const std::vector<int32_t> ids = OldTokens();
  ASSERT_TRUE(fresh.Prefill(std::span(ids).first(11)).ok());
  for (int i = 11; i < 13; ++i) ASSERT_TRUE(fresh.Decode(ids[i]).ok());

  const SessionFileInfo info = ReadSessionFileInfo(OldFile()).value();
  EXPECT_EQ(info.model_name, "tiny");
  EXPECT_EQ(info.n_tokens, 13);
  EXPECT_EQ(info.note, "a note");
  auto old = Session::Load(model, OldOptions(), OldFile());
  ASSERT_TRUE(old.ok()) << old.status().message();
  EXPECT_EQ(old->tokens(), ids);
  EXPECT_EQ(old->prompt_len(), 11);
  EXPECT_EQ(old->kv_bytes(), fresh.kv_bytes());
  EXPECT_EQ(old->HeldAt(9), 8) << "the snapshot";

  // It becomes a file of the current version, which has the same tokens and cache.
  const TempDir dir;
  const std::string path = dir.path() + "/new.session";
  ASSERT_TRUE(old->Save(path, "moved").ok());
  auto moved = Session::Load(model, OldOptions(), path);
  ASSERT_TRUE(moved.ok()) << moved.status().message();
  EXPECT_EQ(moved->prompt_len(), 11);
  const std::vector<float> logits = After(&*old, 5);
  EXPECT_EQ(After(&*moved, 5), logits);
  ExpectClose(logits, After(&fresh, 5));
  ASSERT_TRUE(old->Rewind(9).ok());
  ASSERT_TRUE(fresh.Rewind(9).ok());
  ExpectClose(After(&*old, 6), After(&fresh, 6));
}

TEST(SessionFileV1, EveryDamageIsFound) {
  const BackendPtr backend = CreateBackend({.device = Device::kCpu, .n_threads = 1}).value();
  const Model model = Model::Random(TinyConfig(), 0, 5, backend.get()).value();
  const std::string whole = ReadFile(OldFile(), 1 << 20).value();
  const TempDir dir;
  const std::string path = dir.path() + "/damaged.session";
  const auto code = [&](const std::string& bytes) {
    EXPECT_TRUE(WriteFileAtomic(path, bytes).ok());
    return Session::Load(model, OldOptions(), path).status().code();
  };
  EXPECT_EQ(code(whole), StatusCode::kOk);
  const size_t end = whole.size();
  for (const size_t at : {size_t{0}, size_t{8}, size_t{16}, size_t{24}, size_t{32}, size_t{40}, size_t{60},
                          size_t{4096}, size_t{4096 + 13 * 4}, size_t{5000}, size_t{7000}, end - 9, end - 1}) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    EXPECT_EQ(code(damaged), StatusCode::kCorrupt) << "byte " << at;
  }
  for (const size_t n : {size_t{0}, size_t{7}, size_t{8}, size_t{39}, size_t{100}, size_t{4096}, end - 1}) {
    EXPECT_EQ(code(whole.substr(0, n)), StatusCode::kCorrupt) << n << " bytes";
  }
  EXPECT_EQ(code(whole + "x"), StatusCode::kCorrupt);
}

class HeaderV1 : public testing::Test {
 protected:
  static Result<SessionFileHeader> Parsed(const std::string& bytes, uint64_t file_bytes) {
    return ParseSessionHeaderV1({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, file_bytes, "f");
  }
  static uint64_t Number(const std::string& bytes, size_t at) {
    uint64_t value;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  }
  static void SetNumber(std::string* bytes, size_t at, uint64_t value) {
    std::memcpy(bytes->data() + at, &value, sizeof value);
  }

  const std::string file_ = ReadFile(OldFile(), 1 << 20).value();
  const size_t header_bytes_ = Number(file_, 16);
};

TEST_F(HeaderV1, ChecksItsTextThoughTheChecksumFits) {
  const auto refused = [&](const std::string& from, const std::string& to, const std::string& word) {
    std::string bytes = file_;
    bytes.replace(bytes.find(from), from.size(), to);
    SetNumber(&bytes, 24, XXH3_64bits(bytes.data() + 40, header_bytes_));
    const Status status = Parsed(bytes, file_.size()).status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << to;
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  };
  ASSERT_TRUE(Parsed(file_, file_.size()).ok());
  refused("100011", "100012", "0 or 1");
  refused("\"len\":13", "\"len\":14", "bytes, expected");
  refused("\"note\"", "\"nota\"", "note");
  std::string other_version = file_;
  other_version[8] = 2;
  EXPECT_NE(Parsed(other_version, file_.size()).status().message().find("version 2"), std::string::npos);
}

TEST_F(HeaderV1, IsReadOnlyWhereItIsWhole) {
  const size_t whole = 40 + header_bytes_;
  EXPECT_TRUE(Parsed(file_.substr(0, whole), file_.size()).ok()) << "the padding is not checked";
  for (const size_t n : {whole - 1, size_t{40}, size_t{39}, size_t{8}, size_t{1}, size_t{0}}) {
    // The bytes are on the heap, so that a sanitizer sees a read beyond their end.
    EXPECT_EQ(Parsed(file_.substr(0, n), file_.size()).status().code(), StatusCode::kCorrupt) << n;
  }
  for (const uint64_t other : {file_.size() - 1, file_.size() + 1, size_t{0}}) {
    EXPECT_EQ(Parsed(file_, other).status().code(), StatusCode::kCorrupt) << other;
  }
  std::string endless = file_;
  const uint64_t too_many = (uint64_t{16} << 20) + 1;
  SetNumber(&endless, 16, too_many);
  endless.resize(40 + too_many);
  EXPECT_NE(Parsed(endless, endless.size()).status().message().find("header of"), std::string::npos);
}

}  // namespace
}  // namespace duo
