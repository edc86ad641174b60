// Parses any bytes as the beginning of a saved session, of this version of the format and of version 1. Checksums and
// lengths are corrected so that the later checks are reached. An accepted header describes a possible cache, and it is
// the same after it is written again.
#include <fmt/format.h>
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "checkpoint/safetensors.h"
#include "engine/session_header.h"

namespace {

std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

/// A header that was accepted can be written, and what was written can be read.
void CheckAccepted(const duo::SessionFileHeader& header) {
  DUO_CHECK(header.extent.len >= 0 && header.extent.lowest_held <= header.extent.len, "a possible extent");
  duo::SessionFileHeader copy = header;
  const auto again = duo::FormatSessionHeader(&copy, "again");
  // Version 1 has no limit on the product of sizes that do not fit any machine. Such a header cannot be written.
  if (!again.ok()) return;
  const uint64_t file_bytes = copy.data_offset + copy.data_bytes + duo::kSessionChecksumBytes;
  const auto reread = duo::ParseSessionHeader(Bytes(*again), file_bytes, "again");
  DUO_CHECK(reread.ok() && reread->layout.heads.retrieval == header.layout.heads.retrieval &&
                reread->extent.snapshots == header.extent.snapshots && reread->note == header.note &&
                reread->data_bytes == copy.data_bytes,
            "a header that was written can be read");
}

/// `facts` as the facts of a file of version 2 without tensors: only the checks before those of the tensors pass.
void TryVersion2(const std::string& facts) {
  const duo::safetensors::Metadata metadata = {
      {"format", "duo-session"},
      {"version", "2"},
      {"session", facts},
      {"session_xxh3", fmt::format("{:016x}", XXH3_64bits(facts.data(), facts.size()))}};
  const auto file = duo::safetensors::FormatFileHeader("fuzz", {}, metadata, 8);
  if (!file.ok()) return;
  const auto header = duo::ParseSessionHeader(Bytes(*file), file->size(), "fuzz");
  DUO_CHECK(!header.ok(), "a session has tensors");
  const auto parsed = duo::ParseSessionFacts(facts, "fuzz");
  if (parsed.ok()) CheckAccepted(*parsed);
}

/// `facts` as the header of a file of version 1, in files of the expected length and of another length.
void TryVersion1(const std::string& facts) {
  constexpr size_t kPreambleBytes = 40;
  std::string file(kPreambleBytes, '\0');
  const auto set = [&](size_t at, auto value) { std::memcpy(file.data() + at, &value, sizeof value); };
  std::memcpy(file.data(), "DUOSESS\n", 8);
  set(8, uint32_t{1});
  set(16, uint64_t{facts.size()});
  set(24, uint64_t{XXH3_64bits(facts.data(), facts.size())});
  file += facts;
  const auto wrong = duo::ParseSessionHeader(Bytes(file), 1, "fuzz");
  DUO_CHECK(!wrong.ok(), "no session has one byte");
  // The error about a wrong length names the right one.
  const std::string& message = wrong.status().message();
  const size_t at = message.find("expected ");
  if (at == std::string::npos) return;
  const uint64_t expected = std::strtoull(message.c_str() + at + 9, nullptr, 10);
  const uint64_t offset = (kPreambleBytes + facts.size() + 4095) / 4096 * 4096;
  if (expected < offset + 8) return;
  set(32, uint64_t{expected - offset - 8});
  const auto header = duo::ParseSessionHeader(Bytes(file), expected, "fuzz");
  if (header.ok()) CheckAccepted(*header);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto header = duo::ParseSessionHeader({data, size}, size, "fuzz");
  if (header.ok()) CheckAccepted(*header);
  const std::string facts(reinterpret_cast<const char*>(data), size);
  TryVersion1(facts);
  TryVersion2(facts);
  return 0;
}
