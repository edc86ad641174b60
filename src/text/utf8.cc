#include "text/utf8.h"

#include <utf8proc.h>

#include <cstring>

#include "base/strings.h"

namespace duo {
namespace {

struct LeadByte {
  uint32_t n_trail;         // continuation bytes that must follow
  uint8_t first_lo = 0x80;  // range of the first one (excludes overlong forms, surrogates, > U+10FFFF)
  uint8_t first_hi = 0xBF;
};

bool ClassifyLead(uint8_t byte, LeadByte* lead) {
  if (byte >= 0xC2 && byte <= 0xDF) {
    *lead = {1};
  } else if (byte == 0xE0) {
    *lead = {2, 0xA0, 0xBF};
  } else if (byte == 0xED) {
    *lead = {2, 0x80, 0x9F};
  } else if (byte >= 0xE1 && byte <= 0xEF) {
    *lead = {2};
  } else if (byte == 0xF0) {
    *lead = {3, 0x90, 0xBF};
  } else if (byte >= 0xF1 && byte <= 0xF3) {
    *lead = {3};
  } else if (byte == 0xF4) {
    *lead = {3, 0x80, 0x8F};
  } else {
    return false;
  }
  return true;
}

// Returns the index of the first byte at or after pos with its high bit set.
size_t SkipAscii(std::string_view text, size_t pos) {
  while (pos + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + pos, 8);
    if ((word & 0x8080808080808080u) != 0) break;
    pos += 8;
  }
  while (pos < text.size() && static_cast<uint8_t>(text[pos]) < 0x80) ++pos;
  return pos;
}

utf8proc_category_t Category(uint32_t code_point) { return utf8proc_category(code_point); }

}  // namespace

Utf8Step NextUtf8(std::string_view text, size_t pos) {
  const auto byte = [&](size_t i) -> uint8_t { return text[i]; };
  const uint8_t first = byte(pos);
  if (first < 0x80) return {first, 1, true, false};
  LeadByte lead{};
  if (!ClassifyLead(first, &lead)) return {kReplacementCodePoint, 1, false, false};
  uint32_t code_point = first & (0x3Fu >> lead.n_trail);
  for (uint32_t k = 1; k <= lead.n_trail; ++k) {
    if (pos + k >= text.size()) return {kReplacementCodePoint, k, false, true};
    const uint8_t lo = k == 1 ? lead.first_lo : 0x80;
    const uint8_t hi = k == 1 ? lead.first_hi : 0xBF;
    const uint8_t trail = byte(pos + k);
    if (trail < lo || trail > hi) return {kReplacementCodePoint, k, false, false};
    code_point = (code_point << 6) | (trail & 0x3Fu);
  }
  return {code_point, lead.n_trail + 1, true, false};
}

size_t PreviousUtf8(std::string_view text, size_t end) {
  size_t pos = end - 1;
  while (pos > 0 && IsUtf8Continuation(text[pos])) --pos;
  return pos;
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  const auto trail = [&](int shift) -> char { return 0x80 | ((code_point >> shift) & 0x3F); };
  if (code_point < 0x80) {
    out->push_back(code_point);
  } else if (code_point < 0x800) {
    out->append({static_cast<char>(0xC0 | (code_point >> 6)), trail(0)});
  } else if (code_point < 0x10000) {
    out->append({static_cast<char>(0xE0 | (code_point >> 12)), trail(6), trail(0)});
  } else {
    out->append({static_cast<char>(0xF0 | (code_point >> 18)), trail(12), trail(6), trail(0)});
  }
}

bool IsValidUtf8(std::string_view text) {
  for (size_t pos = SkipAscii(text, 0); pos < text.size(); pos = SkipAscii(text, pos)) {
    const Utf8Step step = NextUtf8(text, pos);
    if (!step.valid) return false;
    pos += step.n_bytes;
  }
  return true;
}

void AppendReplacingInvalid(std::string_view bytes, std::string* out) {
  size_t copied = 0;
  for (size_t pos = SkipAscii(bytes, 0); pos < bytes.size(); pos = SkipAscii(bytes, pos)) {
    const Utf8Step step = NextUtf8(bytes, pos);
    if (!step.valid) {
      out->append(bytes.substr(copied, pos - copied));
      out->append(kReplacementUtf8);
      copied = pos + step.n_bytes;
    }
    pos += step.n_bytes;
  }
  out->append(bytes.substr(copied));
}

size_t DecidedPrefix(std::string_view bytes) {
  // An unfinished character has at most three bytes, so only the last three bytes can begin one.
  for (size_t back = 1; back <= 3 && back <= bytes.size(); ++back) {
    const size_t pos = bytes.size() - back;
    if (IsUtf8Continuation(bytes[pos])) continue;
    const Utf8Step step = NextUtf8(bytes, pos);
    return step.truncated && step.n_bytes == back ? pos : bytes.size();
  }
  return bytes.size();
}

std::u32string CodePoints(std::string_view text) {
  std::u32string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text, at);
    out.push_back(step.code_point);
    at += step.n_bytes;
  }
  return out;
}

std::string_view TrimStartIf(std::string_view text, bool (*is_blank)(uint32_t)) {
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text, 0);
    if (!is_blank(step.code_point)) break;
    text.remove_prefix(step.n_bytes);
  }
  return text;
}

std::string_view TrimEndIf(std::string_view text, bool (*is_blank)(uint32_t)) {
  while (!text.empty()) {
    const size_t last = PreviousUtf8(text, text.size());
    const Utf8Step step = NextUtf8(text, last);
    // Bytes after a complete character are not UTF-8, so they are not blank.
    if (last + step.n_bytes != text.size() || !is_blank(step.code_point)) break;
    text.remove_suffix(step.n_bytes);
  }
  return text;
}

bool IsWhiteSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsWordCharacter(uint32_t c) {
  switch (Category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
  }
  // Other_Alphabetic outside these categories: circled and squared Latin letters. Join_Control: ZWNJ, ZWJ.
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D;
}

bool IsNumeric(uint32_t c) {
  const utf8proc_category_t category = Category(c);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

}  // namespace duo
