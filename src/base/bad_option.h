// The error of an option out of range, in one sentence.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "duo/result.h"

namespace duo {

/// kInvalidArgument about `option`, by its name in the API: "sink is -1; expected 0 or more tokens".
inline Status BadOption(std::string_view option, std::string_view value, std::string_view expected) {
  std::string sentence(option);
  sentence.append(" is ").append(value).append("; expected ").append(expected);
  return Status(StatusCode::kInvalidArgument, std::move(sentence)).About(option);
}

}  // namespace duo
