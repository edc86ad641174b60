#include "engine/session_file_v1.h"

#include <xxhash.h>

#include <cstring>
#include <string_view>

#include "base/align.h"
#include "base/error.h"

namespace duo {
namespace {

constexpr char kMagic[8] = {'D', 'U', 'O', 'S', 'E', 'S', 'S', '\n'};
constexpr uint32_t kVersion = 1;

/// The first bytes of the file. All integers are little-endian, as on this machine.
struct Preamble {
  char magic[8];
  uint32_t version;
  uint32_t unused;
  uint64_t header_bytes;
  uint64_t header_hash;  // XXH3 of the header
  uint64_t data_bytes;
};
static_assert(sizeof(Preamble) == 40);

}  // namespace

bool IsSessionV1(std::span<const uint8_t> bytes) {
  return bytes.size() >= sizeof kMagic && std::memcmp(bytes.data(), kMagic, sizeof kMagic) == 0;
}

Result<SessionFileHeader> ParseSessionHeaderV1(std::span<const uint8_t> bytes, uint64_t file_bytes,
                                               const std::string& where) {
  Preamble preamble;
  if (bytes.size() < sizeof preamble) return Corrupt("{}: too short for a saved session", where);
  std::memcpy(&preamble, bytes.data(), sizeof preamble);
  if (!IsSessionV1(bytes)) return Corrupt("{}: not a saved session", where);
  if (preamble.version != kVersion) {
    return Corrupt("{}: format version {}, expected version {}", where, preamble.version, kVersion);
  }
  if (preamble.header_bytes > kMaxSessionHeaderBytes || preamble.header_bytes > bytes.size() - sizeof preamble) {
    return Corrupt("{}: the header of {} bytes is cut off", where, preamble.header_bytes);
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof preamble, preamble.header_bytes);
  if (XXH3_64bits(text.data(), text.size()) != preamble.header_hash) {
    return Corrupt("{}: the header is damaged: its checksum differs", where);
  }
  DUO_ASSIGN_OR_RETURN(SessionFileHeader header, ParseSessionFacts(text, where));
  header.version = kVersion;
  header.data_offset = RoundUp(sizeof preamble + preamble.header_bytes, kSessionDataAlign);
  header.data_bytes = SessionDataBytes(header);
  const uint64_t expected = header.data_offset + header.data_bytes + kSessionChecksumBytes;
  if (preamble.data_bytes != header.data_bytes || file_bytes != expected) {
    return Corrupt("{}: {} bytes, expected {}: the file is cut off or is not a saved session", where, file_bytes,
                   expected);
  }
  return header;
}

}  // namespace duo
