// Long plain text to hide passkeys in, from whatever the user has: a text file, a folder of them, JSON lines.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

inline constexpr size_t kMaxHaystackBytes = size_t{256} << 20;

struct Haystack {
  std::string text;        // documents one after another, a blank line between them
  bool truncated = false;  // the source has more than max_bytes
};

/// `path`: a text file; FILE.jsonl or FILE.jsonl.zst, of whose lines the key "text" is taken; or a folder, of which all
/// files *.txt, *.jsonl and *.jsonl.zst are taken in order of their names. Reads until there are max_bytes of text.
/// kNotFound; kIo; kCorrupt names file and line.
/// Decompressed JSON lines may take 16 times max_bytes, whatever they hold.
Result<Haystack> LoadHaystack(const std::string& path, size_t max_bytes = kMaxHaystackBytes);

/// The same of one file's bytes; `name` decides what they are, and begins every message.
Result<Haystack> ParseHaystack(std::string_view bytes, const std::string& name, size_t max_bytes);

}  // namespace duo
