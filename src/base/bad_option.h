// The error for an option that is out of range.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "duo/result.h"

namespace duo {

/// kInvalidArgument whose subject is `option`, its name in the API. The sentence is like "sink is -1; expected 0 or
/// more tokens".
inline Status BadOption(std::string_view option, std::string_view value, std::string_view expected) {
  std::string sentence(option);
  sentence.append(" is ").append(value).append("; expected ").append(expected);
  return Status(StatusCode::kInvalidArgument, std::move(sentence)).About(option);
}

}  // namespace duo
