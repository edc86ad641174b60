// The header of the file of a saved sequence. It is checked before anything is made from it. docs/formats.md has the
// layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "duo/result.h"
#include "kv/split_kv_cache.h"

namespace duo {

/// A file is a safetensors file since version 2. engine/session_file_v1.h reads version 1.
constexpr int kSessionVersion = 2;

struct SessionFileHeader {
  std::string model_name;
  std::string model_hash;  // fingerprint of the weights, 16 hexadecimal digits
  KvLayout layout;         // all fields except capacity
  SplitKvCache::Extent extent;
  std::string note;
  int version = kSessionVersion;  // decides the order of the data
  uint64_t data_offset = 0;       // offset of the token ids, the first data
  uint64_t data_bytes = 0;        // bytes of the data, without the checksum after them
};

constexpr size_t kSessionChecksumBytes = 8;  // XXH3 of the data
constexpr size_t kSessionDataAlign = 4096;   // data_offset is a multiple
constexpr size_t kMaxSessionNoteBytes = size_t{64} << 10;
/// Maximum bytes of a saved session's header, in every version. Parsing it takes several times its bytes, and a server
/// parses the header of every file in its folder.
constexpr uint64_t kMaxSessionHeaderBytes = uint64_t{16} << 20;

/// The text in the file about model, cache and note, as JSON. The versions of the format have it in common.
std::string SessionFacts(const SessionFileHeader& header);
/// Reads that text. version, data_offset and data_bytes are not part of it. kCorrupt; the sentence begins with `where`.
Result<SessionFileHeader> ParseSessionFacts(std::string_view text, const std::string& where);

/// The bytes of token ids, their kinds and the cache.
uint64_t SessionDataBytes(const SessionFileHeader& header);

/// Returns the bytes before the data. Sets version, data_offset and data_bytes. kInvalidArgument when the header is too
/// long for the format; the sentence begins with `where`.
Result<std::string> FormatSessionHeader(SessionFileHeader* header, const std::string& where);

/// Parses the header in `bytes`, the first bytes of a file of file_bytes bytes, of any version that can be read.
/// kCorrupt; the sentence begins with `where`.
Result<SessionFileHeader> ParseSessionHeader(std::span<const uint8_t> bytes, uint64_t file_bytes,
                                             const std::string& where);

}  // namespace duo
