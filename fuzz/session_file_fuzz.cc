// Parses any bytes as the beginning of a saved session. The checksum is corrected so that the later checks are reached.
// An accepted header describes a possible cache, and it is the same after it is written again.
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "engine/session_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  (void)duo::ParseSessionHeader(bytes, size, "fuzz");
  // The same bytes as a header after a preamble that fits it, in files of the expected length and of another length.
  std::vector<uint8_t> file(duo::kSessionPreambleBytes);
  const uint64_t header_bytes = size, hash = XXH3_64bits(data, size);
  const uint32_t version = 1;
  std::memcpy(file.data(), "DUOSESS\n", 8);
  std::memcpy(file.data() + 8, &version, sizeof version);
  std::memcpy(file.data() + 16, &header_bytes, sizeof header_bytes);
  std::memcpy(file.data() + 24, &hash, sizeof hash);
  file.insert(file.end(), data, data + size);
  const auto wrong = duo::ParseSessionHeader(file, 1, "fuzz");
  DUO_CHECK(!wrong.ok(), "no session has one byte");
  // The error about a wrong length names the right one.
  const std::string& message = wrong.status().message();
  const size_t at = message.find("expected ");
  if (at == std::string::npos) return 0;
  const uint64_t expected = std::strtoull(message.c_str() + at + 9, nullptr, 10);
  const uint64_t offset = (duo::kSessionPreambleBytes + size + 4095) / 4096 * 4096;
  if (expected < offset + 8) return 0;
  const uint64_t data_bytes = expected - offset - 8;
  std::memcpy(file.data() + 32, &data_bytes, sizeof data_bytes);
  const auto header = duo::ParseSessionHeader(file, expected, "fuzz");
  if (!header.ok()) return 0;
  DUO_CHECK(header->extent.len >= 0 && header->extent.lowest_held <= header->extent.len, "a possible extent");
  duo::SessionFileHeader copy = *header;
  const std::string again = duo::FormatSessionHeader(&copy);
  const std::vector<uint8_t> again_bytes(again.begin(), again.end());
  const auto reread = duo::ParseSessionHeader(again_bytes, copy.data_offset + copy.data_bytes + 8, "again");
  DUO_CHECK(reread.ok() && reread->layout.heads.retrieval == header->layout.heads.retrieval &&
                reread->extent.snapshots == header->extent.snapshots && reread->note == header->note,
            "a header that was written can be read");
  return 0;
}
