// The header of the file of a saved sequence. It is checked before anything is made from it. docs/formats.md has the
// layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "duo/result.h"
#include "kv/split_kv_cache.h"

namespace duo {

struct SessionFileHeader {
  std::string model_name;
  std::string model_hash;  // fingerprint of the weights, 16 hexadecimal digits
  KvLayout layout;         // all fields except capacity
  SplitKvCache::Extent extent;
  std::string note;
  uint64_t data_offset = 0;  // offset of the tokens; their kinds and the cache's bytes follow
  uint64_t data_bytes = 0;
};

constexpr size_t kSessionPreambleBytes = 40;
constexpr size_t kMaxSessionHeaderBytes = size_t{16} << 20;
constexpr size_t kMaxSessionNoteBytes = size_t{64} << 10;

/// Returns the bytes before the data, padded to a multiple of 4 KiB. Sets data_offset and data_bytes.
std::string FormatSessionHeader(SessionFileHeader* header);

/// Parses the header in `bytes`, the first bytes of a file of file_bytes bytes. kCorrupt; the sentence begins with
/// `where`.
Result<SessionFileHeader> ParseSessionHeader(std::span<const uint8_t> bytes, uint64_t file_bytes,
                                             const std::string& where);

}  // namespace duo
