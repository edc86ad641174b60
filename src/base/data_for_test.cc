#include "base/data_for_test.h"

#include <cstdlib>

#include "base/file.h"

namespace duo {

std::string SourceDir() {
  const char* elsewhere = std::getenv("DUO_SOURCE_DIR");
  return elsewhere != nullptr ? elsewhere : DUO_SOURCE_DIR;
}

std::string SharedData(const std::string& folder) {
  const std::string shared = DUO_SHARED_DIR;
  const std::string path = (shared.empty() ? SourceDir() + "/../shared" : shared) + "/" + folder;
  return IsDirectory(path) ? path : "";
}

}  // namespace duo
