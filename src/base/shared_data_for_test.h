// Test data outside the repository.
#pragma once

#include <string>

#include "base/file.h"

namespace duo {

/// The folder of that name inside CMake's DUO_SHARED_DIR (by default ../shared beside the sources), or "" where there
/// is none: the test then skips.
inline std::string SharedData(const std::string& folder) {
#ifdef DUO_SHARED_DIR
  const std::string root = DUO_SHARED_DIR;
#elif defined(DUO_SOURCE_DIR)
  const std::string root = DUO_SOURCE_DIR "/../shared";
#else
  const std::string root;
#endif
  const std::string path = root + "/" + folder;
  return IsDirectory(path) ? path : "";
}

}  // namespace duo
