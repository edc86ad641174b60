// Long plain text to hide passkeys in, from the user's own text file, folder of files, or JSON lines.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

inline constexpr size_t kMaxHaystackBytes = size_t{256} << 20;

struct Haystack {
  std::string text;        // documents in sequence, separated by a blank line
  bool truncated = false;  // the source holds more than max_bytes
};

/// `path` is a text file, a FILE.jsonl or FILE.jsonl.zst, or a folder. JSON lines supply the text of their key "text".
/// A folder supplies its files *.txt, *.jsonl and *.jsonl.zst in name order. Reading stops at max_bytes of text.
/// Decompressed JSON lines may take at most 16 times max_bytes, whatever they hold. Errors: kNotFound; kIo; kCorrupt
/// names file and line.
Result<Haystack> LoadHaystack(const std::string& path, size_t max_bytes = kMaxHaystackBytes);

/// Like LoadHaystack, for the bytes of one file. `name` selects the format by its suffix and begins every message.
Result<Haystack> ParseHaystack(std::string_view bytes, const std::string& name, size_t max_bytes);

}  // namespace duo
