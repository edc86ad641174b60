// Errors in the format that OpenAI's clients expect.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/json.h"
#include "duo/result.h"

namespace duo {

struct ApiError {
  int http_status = 400;
  std::string type = "invalid_request_error";
  std::string message;
  std::string param;  // the field that is wrong; empty = none
  std::string code;   // empty = none
  int retry_after_s = 0;
};

/// Either a value or the error that a client gets. Like Result<T>: reading the value of an error aborts, so test ok()
/// first.
template <typename T>
class [[nodiscard]] ApiResult {
 public:
  ApiResult(T value) : either_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  ApiResult(ApiError error) : either_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return std::holds_alternative<T>(either_); }
  const ApiError& error() const {
    DUO_CHECK(!ok(), "the error of a value");
    return *std::get_if<ApiError>(&either_);
  }

  const T& operator*() const& {
    DUO_CHECK(ok(), "the value of an error");
    return *std::get_if<T>(&either_);
  }
  T& operator*() & { return const_cast<T&>(*std::as_const(*this)); }
  T&& operator*() && { return std::move(**this); }
  const T* operator->() const { return &**this; }
  T* operator->() { return &**this; }

 private:
  std::variant<T, ApiError> either_;
};

/// {"error":{"message","type","param","code"}}
Json ToJson(const ApiError& error);

/// The error of a request whose work failed with `status`. Its HTTP status follows from the code:
///   400: kInvalidArgument (`param` is the status's subject), kResourceExhausted (memory_exceeded), kUnsupported.
///   404: kNotFound.
///   409: kCorrupt.
///   499: kCancelled, for a client that left.
///   507: kIo.
///   500: every other code except kUnavailable.
/// The reason of kUnavailable decides (server/unavailable.h): 429 with Retry-After for a full queue, 409 for a busy
/// session or no memory now, 503 for stopping.
ApiError FromStatus(const Status& status);

/// An error with this sentence. Its type follows from the HTTP status.
ApiError PlainError(int http_status, const std::string& message);

ApiError BadField(const std::string& param, const std::string& message);

}  // namespace duo
