// The web page's files, embedded when the program was built.
#pragma once

#include <span>
#include <string_view>

namespace duo {

struct WebFile {
  std::string_view name;  // "index.html"
  std::string_view bytes;
};

std::span<const WebFile> WebFiles();

}  // namespace duo
