// Test data outside the repository.
#pragma once

#include <string>

#include "base/file.h"

namespace duo {

/// The folder of that name inside CMake's DUO_SHARED_DIR, or "" where there is none: the test then skips.
inline std::string SharedData(const std::string& folder) {
#ifdef DUO_SHARED_DIR
  const std::string root = DUO_SHARED_DIR;
#else
  const std::string root;
#endif
  const std::string path = root + "/" + folder;
  return !root.empty() && IsDirectory(path) ? path : "";
}

}  // namespace duo
