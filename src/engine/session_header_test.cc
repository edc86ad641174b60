// The header of a saved session: its values can be read back, and impossible values are refused before anything is made
// from them.
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <string>

#include "engine/session_file.h"

namespace duo {
namespace {

SessionFileHeader Header() {
  SessionFileHeader header;
  header.model_name = "tiny";
  header.model_hash = "0123456789abcdef";
  header.layout.heads = {.n_layers = 3, .n_kv_heads = 2, .retrieval = {1, 0, 0, 0, 0, 1}};
  header.layout.head_dim = 16;
  header.layout.type = KvType::kF32;
  header.layout.sink = 4;
  header.layout.recent = 20;
  header.layout.prefill_recent = 25;
  header.layout.snapshot_every = 32;
  header.extent = {.len = 70, .lowest_held = 45, .snapshots = {32, 64}};
  header.note = "a note";
  return header;
}

Result<SessionFileHeader> Parsed(const std::string& bytes, uint64_t file_bytes) {
  return ParseSessionHeader({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, file_bytes, "f");
}

Result<SessionFileHeader> FormattedAndParsed(SessionFileHeader header) {
  const std::string bytes = FormatSessionHeader(&header);
  return Parsed(bytes, header.data_offset + header.data_bytes + 8);
}

TEST(SessionHeader, ComesBackAsItWas) {
  SessionFileHeader header = Header();
  const std::string bytes = FormatSessionHeader(&header);
  EXPECT_EQ(bytes.size() % 4096, 0u);
  EXPECT_EQ(header.data_offset, bytes.size());
  // 70 tokens of 4 bytes and a kind byte, 2 retrieval heads of 70 rows, 4 streaming heads of 29 rows, and two snapshots
  // with 25 rows per streaming head.
  EXPECT_EQ(header.data_bytes, 70u * 5 + (2 * 70 + 4 * 29 + 2 * 4 * 25) * 2 * 16 * 4);
  const uint64_t file_bytes = header.data_offset + header.data_bytes + 8;
  const auto parsed = Parsed(bytes, file_bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  EXPECT_EQ(parsed->model_name, "tiny");
  EXPECT_EQ(parsed->model_hash, "0123456789abcdef");
  EXPECT_EQ(parsed->note, "a note");
  EXPECT_EQ(parsed->layout.heads.n_layers, 3);
  EXPECT_EQ(parsed->layout.heads.n_kv_heads, 2);
  EXPECT_EQ(parsed->layout.heads.retrieval, header.layout.heads.retrieval);
  EXPECT_EQ(parsed->layout.head_dim, 16);
  EXPECT_EQ(parsed->layout.type, KvType::kF32);
  EXPECT_EQ(parsed->layout.sink, 4);
  EXPECT_EQ(parsed->layout.recent, 20);
  EXPECT_EQ(parsed->layout.prefill_recent, 25);
  EXPECT_EQ(parsed->layout.snapshot_every, 32);
  EXPECT_EQ(parsed->extent.len, 70);
  EXPECT_EQ(parsed->extent.lowest_held, 45);
  EXPECT_EQ(parsed->extent.snapshots, header.extent.snapshots);
  EXPECT_EQ(parsed->data_offset, header.data_offset);
  EXPECT_EQ(parsed->data_bytes, header.data_bytes);
  for (const uint64_t other : {file_bytes - 1, file_bytes + 1, uint64_t{0}}) {
    EXPECT_EQ(Parsed(bytes, other).status().code(), StatusCode::kCorrupt) << other;
  }
}

TEST(SessionHeader, TakesEveryKindOfCache) {
  for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kInt8, KvType::kInt4}) {
    SessionFileHeader header = Header();
    header.layout.type = type;
    const auto parsed = FormattedAndParsed(header);
    ASSERT_TRUE(parsed.ok()) << parsed.status().message();
    EXPECT_EQ(parsed->layout.type, type);
  }
}

TEST(SessionHeader, LimitsItsShape) {
  const auto with = [](int n_layers, int n_kv_heads, int head_dim) {
    SessionFileHeader header = Header();
    header.layout.heads = AllRetrieval(n_layers, n_kv_heads);
    header.layout.head_dim = head_dim;
    header.extent = {.len = 0, .lowest_held = 0, .snapshots = {}};
    return FormattedAndParsed(header).status().code();
  };
  EXPECT_EQ(with(1, 1, 1), StatusCode::kOk);
  EXPECT_EQ(with(1 << 16, 1, 4096), StatusCode::kOk);
  EXPECT_EQ(with(1, 1 << 16, 64), StatusCode::kOk);
  EXPECT_EQ(with(256, 256, 64), StatusCode::kOk);
  EXPECT_EQ(with((1 << 16) + 1, 1, 64), StatusCode::kCorrupt);
  EXPECT_EQ(with(1, (1 << 16) + 1, 64), StatusCode::kCorrupt);
  EXPECT_EQ(with(257, 256, 64), StatusCode::kCorrupt);
  EXPECT_EQ(with(0, 2, 64), StatusCode::kCorrupt);
  EXPECT_EQ(with(2, 0, 64), StatusCode::kCorrupt);
  EXPECT_EQ(with(2, 2, 0), StatusCode::kCorrupt);
  EXPECT_EQ(with(2, 2, 4097), StatusCode::kCorrupt);
}

TEST(SessionHeader, RefusesWhatNoSessionSays) {
  const auto refused = [](auto change, const std::string& word) {
    SessionFileHeader header = Header();
    change(header);
    const Status status = FormattedAndParsed(header).status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << word;
    EXPECT_EQ(status.message().rfind("f: ", 0), 0u) << status.message();
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  };
  refused([](auto& h) { h.layout.heads.retrieval.pop_back(); }, "each KV head");
  refused([](auto& h) { h.layout.heads.retrieval.push_back(1); }, "each KV head");
  refused([](auto& h) { h.layout.sink = -1; }, "sink");
  refused([](auto& h) { h.layout.recent = 0; }, "recent");
  refused([](auto& h) { h.layout.prefill_recent = 19; }, "prefill_recent");
  refused([](auto& h) { h.layout.snapshot_every = -1; }, "snapshot_every");
  refused([](auto& h) { h.extent = {.len = 0, .lowest_held = -1, .snapshots = {}}; }, "lowest_held");
  refused([](auto& h) { h.extent.lowest_held = 71; }, "lowest_held");
  refused([](auto& h) { h.extent.snapshots = {0, 64}; }, "ascending");
  refused([](auto& h) { h.extent.snapshots = {64, 32}; }, "ascending");
  refused([](auto& h) { h.extent.snapshots = {32, 32}; }, "ascending");
  refused([](auto& h) { h.extent.snapshots = {32, 96}; }, "ascending");
  SessionFileHeader ends = Header();
  ends.extent = {.len = 64, .lowest_held = 64, .snapshots = {64}};
  EXPECT_TRUE(FormattedAndParsed(ends).ok());
}

/// Replaces text in the header with text of the same length, and corrects the checksum.
std::string Changed(std::string bytes, const std::string& from, const std::string& to) {
  EXPECT_EQ(from.size(), to.size());
  const size_t at = bytes.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  bytes.replace(at, from.size(), to);
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data() + 16, sizeof header_bytes);
  const uint64_t hash = XXH3_64bits(bytes.data() + kSessionPreambleBytes, header_bytes);
  std::memcpy(bytes.data() + 24, &hash, sizeof hash);
  return bytes;
}

TEST(SessionHeader, ChecksItsTextThoughTheChecksumFits) {
  SessionFileHeader header = Header();
  const std::string bytes = FormatSessionHeader(&header);
  const uint64_t file_bytes = header.data_offset + header.data_bytes + 8;
  EXPECT_TRUE(Parsed(Changed(bytes, "tiny", "tidy"), file_bytes).ok());
  const auto refused = [&](const std::string& from, const std::string& to, const std::string& word) {
    const Status status = Parsed(Changed(bytes, from, to), file_bytes).status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << to;
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  };
  refused("100001", "100002", "0 or 1");
  refused("\"f32\"", "\"f33\"", "kv_type");
  refused("[32,64]", "[32,\"\"]", "snapshots");
  refused("[32,64]", "[3.5,6]", "snapshots");
  refused("[32,64]", "\"    6\"", "snapshots");
  refused("\"len\":70", "\"len\":-7", "len");
  refused("\"len\":70", "\"len\":71", "bytes, expected");
  refused("\"len\":70", "\"lem\":70", "len");
  refused("\"note\"", "\"nota\"", "note");
  refused("\"model_hash\"", "\"model_hush\"", "model_hash");
  refused("\"model\"", "\"modem\"", "model");
  std::string other_version = bytes;
  other_version[8] = 2;
  EXPECT_NE(Parsed(other_version, file_bytes).status().message().find("version 2"), std::string::npos);
}

TEST(SessionHeader, IsReadOnlyWhereItIsWhole) {
  SessionFileHeader header = Header();
  const std::string bytes = FormatSessionHeader(&header);
  const uint64_t file_bytes = header.data_offset + header.data_bytes + 8;
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data() + 16, sizeof header_bytes);
  const size_t whole = kSessionPreambleBytes + header_bytes;
  EXPECT_TRUE(Parsed(bytes.substr(0, whole), file_bytes).ok()) << "the padding is not checked";
  for (const size_t n : {whole - 1, kSessionPreambleBytes, kSessionPreambleBytes - 1, size_t{1}}) {
    // The bytes are on the heap, so that a sanitizer sees a read beyond their end.
    EXPECT_EQ(Parsed(bytes.substr(0, n), file_bytes).status().code(), StatusCode::kCorrupt) << n;
  }
  std::string endless = bytes;
  const uint64_t too_many = kMaxSessionHeaderBytes + 1;
  std::memcpy(endless.data() + 16, &too_many, sizeof too_many);
  endless.resize(kSessionPreambleBytes + too_many);
  EXPECT_NE(Parsed(endless, file_bytes).status().message().find("header of"), std::string::npos);
}

}  // namespace
}  // namespace duo
