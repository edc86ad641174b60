#include "text/byte_alphabet.h"

#include <array>

#include "text/utf8.h"

namespace duo {
namespace {

constexpr uint32_t kAlphabetEnd = 0x144;  // one past the largest character of the alphabet

struct Alphabet {
  std::array<std::string, 256> text;
  std::array<int, kAlphabetEnd> byte;  // -1: not in the alphabet

  // Printable Latin-1 represents itself; the other 68 bytes get U+0100 and up.
  Alphabet() {
    byte.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const uint32_t code_point = printable ? b : next++;
      AppendUtf8(code_point, &text[b]);
      byte[code_point] = b;
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

const std::string& ByteToAlphabet(uint8_t byte) { return TheAlphabet().text[byte]; }

std::optional<std::string> BytesFromAlphabet(std::string_view token) {
  std::string bytes;
  for (size_t pos = 0; pos < token.size();) {
    const Utf8Step step = NextUtf8(token, pos);
    pos += step.n_bytes;
    const int byte = step.code_point < kAlphabetEnd ? TheAlphabet().byte[step.code_point] : -1;
    if (byte < 0) return std::nullopt;
    bytes.push_back(byte);
  }
  return bytes;
}

}  // namespace duo
