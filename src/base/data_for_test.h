// Finds the data of tests. It is compiled into a library of its own, so that the objects of a test are the same in
// every clone of the repository.
#pragma once

#include <string>

namespace duo {

/// The folder of the sources. The environment variable DUO_SOURCE_DIR overrides it, for tests on another machine.
std::string SourceDir();

/// The path of `folder` in CMake's DUO_SHARED_DIR (by default ../shared beside the sources). Returns "" when it does
/// not exist; the test then skips.
std::string SharedData(const std::string& folder);

}  // namespace duo
