// Errors from a sentence with {} for its values: `return Corrupt("{}: {} tensors, expected {}", path, n, wanted);`
#pragma once

#include <fmt/core.h>

#include <concepts>
#include <string_view>

#include "duo/result.h"

namespace duo {

/// A Status with this code and the formatted sentence.
Status FormatError(StatusCode code, fmt::string_view format, fmt::format_args args);

/// One function for each code of an error; the codes are explained in duo/result.h. The compiler checks the format
/// against the values.
template <typename... T>
Status InvalidArgument(fmt::format_string<T...> format, const T&... values) {
  return FormatError(StatusCode::kInvalidArgument, format, fmt::make_format_args(values...));
}
template <typename... T>
Status NotFound(fmt::format_string<T...> format, const T&... values) {
  return FormatError(StatusCode::kNotFound, format, fmt::make_format_args(values...));
}
template <typename... T>
Status Corrupt(fmt::format_string<T...> format, const T&... values) {
  return FormatError(StatusCode::kCorrupt, format, fmt::make_format_args(values...));
}
template <typename... T>
Status Unsupported(fmt::format_string<T...> format, const T&... values) {
  return FormatError(StatusCode::kUnsupported, format, fmt::make_format_args(values...));
}
template <typename... T>
Status ResourceExhausted(fmt::format_string<T...> format, const T&... values) {
  return FormatError(StatusCode::kResourceExhausted, format, fmt::make_format_args(values...));
}
template <typename... T>
Status IoError(fmt::format_string<T...> format, const T&... values) {
  return FormatError(StatusCode::kIo, format, fmt::make_format_args(values...));
}
template <typename... T>
Status UnavailableError(fmt::format_string<T...> format, const T&... values) {
  return FormatError(StatusCode::kUnavailable, format, fmt::make_format_args(values...));
}
template <typename... T>
Status Internal(fmt::format_string<T...> format, const T&... values) {
  return FormatError(StatusCode::kInternal, format, fmt::make_format_args(values...));
}

/// kInvalidArgument whose subject is `option`, its name in the API. The sentence is like "sink is -1; expected 0 or
/// more tokens". A caller formats a fraction itself.
inline Status BadOption(std::string_view option, std::string_view value, std::string_view expected) {
  return InvalidArgument("{} is {}; expected {}", option, value, expected).About(option);
}
inline Status BadOption(std::string_view option, std::integral auto value, std::string_view expected) {
  return InvalidArgument("{} is {}; expected {}", option, value, expected).About(option);
}

/// For work that ends because a progress or text callback returned false, or because of Ctrl-C.
inline Status Cancelled() { return Status(StatusCode::kCancelled, "stopped on request"); }

}  // namespace duo
