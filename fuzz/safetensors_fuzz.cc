// Parses any bytes as a safetensors file. Everything that ParseHeader accepts must lie inside the file and be
// consistent.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace safetensors = duo::safetensors;
  const auto header = safetensors::ParseHeader(data, size, "fuzz");
  if (!header.ok()) return 0;
  uint64_t total = 0;
  volatile unsigned sum = 0;  // touches the bytes, so that the sanitizer sees a wrong range
  for (const auto& [name, entry] : *header) {
    DUO_CHECK(entry.begin <= size && entry.bytes <= size - entry.begin, "a tensor outside the file was accepted");
    if (entry.bytes != 0) sum = sum + data[entry.begin] + data[entry.begin + entry.bytes - 1];
    for (const int64_t n : entry.shape) DUO_CHECK(n >= 0, "a negative dimension was accepted");
    total += entry.bytes;
  }
  DUO_CHECK(total <= size, "overlapping tensors were accepted");
  return 0;
}
