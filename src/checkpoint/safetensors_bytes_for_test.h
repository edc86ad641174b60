// Makes safetensors files from a header text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace duo {

/// A safetensors file with exactly this header text, then n_data bytes 0, 1, 2, ...
inline std::string SafetensorsBytes(std::string_view header, size_t n_data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(header.size() >> (8 * i) & 0xff);
  bytes += header;
  for (size_t i = 0; i < n_data; ++i) bytes.push_back(i);
  return bytes;
}

}  // namespace duo
