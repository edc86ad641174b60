// The header of a saved session: its values can be read back, and impossible values are refused before anything is made
// from them.
#include "engine/session_header.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <map>
#include <string>

#include "checkpoint/safetensors.h"

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

std::span<const uint8_t> Span(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

Result<SessionFileHeader> Parsed(const std::string& bytes, uint64_t file_bytes) {
  return ParseSessionHeader(Span(bytes), file_bytes, "f");
}

Result<safetensors::FileHeader> Container(const std::string& bytes, uint64_t file_bytes) {
  return safetensors::ParseFileHeader(Span(bytes), file_bytes, "f");
}

std::string Formatted(SessionFileHeader* header) { return FormatSessionHeader(header, "f").value(); }

uint64_t FileBytes(const SessionFileHeader& header) {
  return header.data_offset + header.data_bytes + kSessionChecksumBytes;
}

Result<SessionFileHeader> FormattedAndParsed(SessionFileHeader header) {
  const std::string bytes = Formatted(&header);
  return Parsed(bytes, FileBytes(header));
}

Result<SessionFileHeader> FactsOf(const SessionFileHeader& header) {
  return ParseSessionFacts(SessionFacts(header), "f");
}

TEST(SessionHeader, OfMoreThan16MiBIsNeitherWrittenNorRead) {
  SessionFileHeader header = Header();
  header.note = std::string(size_t{17} << 20, 'x');
  EXPECT_EQ(FormatSessionHeader(&header, "f").status().code(), StatusCode::kInvalidArgument);
  const std::string bytes = std::string("\x01\0\0\x01\0\0\0\0", 8) + std::string(size_t{17} << 20, ' ');
  EXPECT_EQ(Parsed(bytes, bytes.size()).status().message(), "f: not a saved session");
}

TEST(SessionHeader, ComesBackAsItWas) {
  SessionFileHeader header = Header();
  const std::string bytes = Formatted(&header);
  EXPECT_EQ(bytes.size() % 4096, 0u);
  EXPECT_EQ(header.data_offset, bytes.size());
  // 70 tokens of 4 bytes and a kind byte, 2 retrieval heads of 70 rows, 4 streaming heads of 29 rows, and two snapshots
  // with 25 rows per streaming head.
  EXPECT_EQ(header.data_bytes, 70u * 5 + (2 * 70 + 4 * 29 + 2 * 4 * 25) * 2 * 16 * 4);
  const uint64_t file_bytes = FileBytes(header);
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
  EXPECT_EQ(parsed->version, 2);
  EXPECT_EQ(parsed->data_offset, header.data_offset);
  EXPECT_EQ(parsed->data_bytes, header.data_bytes);
  for (const uint64_t other : {file_bytes - 1, file_bytes + 1, uint64_t{0}}) {
    EXPECT_EQ(Parsed(bytes, other).status().code(), StatusCode::kCorrupt) << other;
  }
}

TEST(SessionHeader, HasATensorForEachPartOfTheData) {
  const auto table = [](SessionFileHeader header) {
    const std::string bytes = Formatted(&header);
    const auto file = Container(bytes, FileBytes(header));
    EXPECT_EQ(file->metadata.at("format"), "duo-session");
    EXPECT_EQ(file->metadata.at("version"), "2");
    std::map<uint64_t, std::string> lines;  // by their place
    for (const auto& [name, entry] : file->tensors) {
      lines[entry.begin] = fmt::format("{} {} [{}]\n", name, entry.type_name, fmt::join(entry.shape, ", "));
    }
    std::string text;
    for (const auto& line : lines) text += line.second;
    return text;
  };
  SessionFileHeader header = Header();
  EXPECT_EQ(table(header),
            "tokens I32 [70]\n"
            "layers.0.retrieval F32 [1, 2, 70, 16]\n"
            "layers.0.streaming F32 [2, 1, 29, 16]\n"
            "layers.1.streaming F32 [2, 2, 29, 16]\n"
            "layers.2.retrieval F32 [1, 2, 70, 16]\n"
            "layers.2.streaming F32 [2, 1, 29, 16]\n"
            "snapshots F32 [2, 8, 25, 16]\n"
            "generated BOOL [70]\n"
            "checksum U8 [8]\n");
  header.layout.heads = AllRetrieval(1, 2);
  header.layout.type = KvType::kBF16;
  header.extent.snapshots.clear();
  EXPECT_EQ(table(header),
            "tokens I32 [70]\n"
            "layers.0.retrieval BF16 [2, 2, 70, 16]\n"
            "generated BOOL [70]\n"
            "checksum U8 [8]\n");
  // Blocks of 16 rows. A row of 16 dimensions has 8 bytes of int4 codes and 4 of its parameters.
  header.layout.type = KvType::kInt4;
  EXPECT_NE(table(header).find("layers.0.retrieval U8 [2, 2, 5, 192]\n"), std::string::npos) << table(header);
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
    const StatusCode code = FactsOf(header).status().code();
    if (code == StatusCode::kOk) {
      EXPECT_TRUE(FormattedAndParsed(header).ok());
    }
    return code;
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
    const Status status = FactsOf(header).status();
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

/// Replaces text in the header of a file with text of the same length, and corrects the checksum.
std::string Changed(std::string bytes, uint64_t file_bytes, const std::string& from, const std::string& to) {
  EXPECT_EQ(from.size(), to.size());
  const size_t at = bytes.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  bytes.replace(at, from.size(), to);
  const std::string facts = Container(bytes, file_bytes)->metadata.at("session");
  const std::string key = R"("session_xxh3":")";
  bytes.replace(bytes.find(key) + key.size(), 16, fmt::format("{:016x}", XXH3_64bits(facts.data(), facts.size())));
  return bytes;
}

TEST(SessionHeader, ChecksItsTextThoughTheChecksumFits) {
  SessionFileHeader header = Header();
  const std::string bytes = Formatted(&header);
  const uint64_t file_bytes = FileBytes(header);
  EXPECT_TRUE(Parsed(Changed(bytes, file_bytes, "tiny", "tidy"), file_bytes).ok());
  const auto refused = [&](const std::string& from, const std::string& to, const std::string& word) {
    const Status status = Parsed(Changed(bytes, file_bytes, from, to), file_bytes).status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << to;
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  };
  refused("100001", "100002", "0 or 1");
  refused("100001", "100011", "layers.2.retrieval");
  refused(R"(\"f32\")", R"(\"f33\")", "kv_type");
  refused(R"([32,64])", R"([32,\"])", "f");
  refused("[32,64]", "[3.5,6]", "snapshots");
  refused("[32,64]", "123,456", "f");
  refused("[32,64]", "     64", "snapshots");
  refused(R"(len\":70)", R"(len\":-7)", "len");
  refused(R"(len\":70)", R"(len\":71)", "tensor tokens");
  refused(R"(\"len\")", R"(\"lem\")", "len");
  refused(R"(\"note\")", R"(\"nota\")", "note");
  refused(R"(\"model_hash\")", R"(\"model_hush\")", "model_hash");
  refused(R"(\"model\")", R"(\"modem\")", "model");
  refused(R"("version":"2")", R"("version":"3")", "format version 3, expected version 2");
  refused("duo-session", "duo-sessiom", "not a saved session");
  refused("layers.1.streaming", "layers.1.streamung", "tensor layers.1.streaming: missing");
  refused(R"("I32")", R"("U32")", "tensor tokens: its type");
  refused("[1,2,70,16]", "[2,1,70,16]", "tensor layers.0.retrieval: its type, shape or place");
}

TEST(SessionHeader, ADamagedTextIsFoundByItsChecksum) {
  SessionFileHeader header = Header();
  std::string bytes = Formatted(&header);
  bytes.replace(bytes.find("a note"), 6, "a nota");
  const Status status = Parsed(bytes, FileBytes(header)).status();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_NE(status.message().find("checksum"), std::string::npos) << status.message();
}

TEST(SessionHeader, IsReadOnlyWhereItIsWhole) {
  SessionFileHeader header = Header();
  const std::string bytes = Formatted(&header);
  for (const size_t n : {bytes.size() - 1, size_t{4096 / 2}, size_t{8}, size_t{7}, size_t{1}, size_t{0}}) {
    // The bytes are on the heap, so that a sanitizer sees a read beyond their end.
    EXPECT_EQ(Parsed(bytes.substr(0, n), FileBytes(header)).status().code(), StatusCode::kCorrupt) << n;
  }
}

}  // namespace
}  // namespace duo
