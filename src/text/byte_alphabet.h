// GPT-2's spelling of bytes as printable characters: the alphabet of byte-level vocabularies ("Ġ" is a space).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace duo {

/// The character that represents `byte`, as UTF-8.
const std::string& ByteToAlphabet(uint8_t byte);
/// The bytes that `token` spells; nullopt if one of its characters is not in the alphabet.
std::optional<std::string> BytesFromAlphabet(std::string_view token);

}  // namespace duo
