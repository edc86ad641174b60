// Reads the header of saved sequences in version 1 of the format, which duo 0.1 wrote before its files were safetensors
// files. The data are those of version 2, except that the kinds come before the cache. docs/formats.md has the layout.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "duo/result.h"
#include "engine/session_header.h"

namespace duo {

/// Whether a file with these first bytes is of version 1. A safetensors file does not begin like it.
bool IsSessionV1(std::span<const uint8_t> bytes);

/// As ParseSessionHeader (engine/session_header.h).
Result<SessionFileHeader> ParseSessionHeaderV1(std::span<const uint8_t> bytes, uint64_t file_bytes,
                                               const std::string& where);

}  // namespace duo
