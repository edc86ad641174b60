// Parses texts to hide passkeys in: plain, JSON lines, compressed JSON lines. The first byte selects the format.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/haystack.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  constexpr size_t kMaxBytes = 1 << 16;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const char* name = data[0] % 3 == 0 ? "a.txt" : data[0] % 3 == 1 ? "a.jsonl" : "a.jsonl.zst";
  const duo::Result<duo::Haystack> haystack = duo::ParseHaystack(bytes, name, kMaxBytes);
  if (haystack.ok() && haystack->text.size() > kMaxBytes) __builtin_trap();
  return 0;
}
