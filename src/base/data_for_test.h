// Where tests find data. Compiled into a library of its own, so that the objects of tests are the same in every clone.
#pragma once

#include <string>

namespace duo {

/// The folder of the sources; DUO_SOURCE_DIR in the environment names another, for tests on another machine.
std::string SourceDir();

/// The folder of that name inside CMake's DUO_SHARED_DIR (by default ../shared beside the sources), or "" where there
/// is none: the test then skips.
std::string SharedData(const std::string& folder);

}  // namespace duo
