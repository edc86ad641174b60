// The library's version.
#pragma once

namespace duo {

/// Semantic version of the linked library, for example "0.1.0". The string has static storage.
const char* Version();

}  // namespace duo
