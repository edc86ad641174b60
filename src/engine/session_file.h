// The file of a saved sequence: its header as a value, checked before anything is made from it. docs/formats.md has the
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
  std::string model_hash;  // of what the weights are, 16 hexadecimal digits
  KvLayout layout;         // without its capacity
  SplitKvCache::Extent extent;
  std::string note;
  uint64_t data_offset = 0;  // of the tokens; kinds and the cache's bytes follow
  uint64_t data_bytes = 0;
};

constexpr size_t kSessionPreambleBytes = 40;
constexpr size_t kMaxSessionHeaderBytes = size_t{16} << 20;
constexpr size_t kMaxSessionNoteBytes = size_t{64} << 10;

/// The bytes before the data, padded to a multiple of 4 KiB. Sets data_offset and data_bytes.
std::string FormatSessionHeader(SessionFileHeader* header);

/// The header in the first bytes of a file that is file_bytes long. kCorrupt, begins with `where`.
Result<SessionFileHeader> ParseSessionHeader(std::span<const uint8_t> bytes, uint64_t file_bytes,
                                             const std::string& where);

}  // namespace duo
