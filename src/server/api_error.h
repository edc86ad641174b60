// Errors in the format that OpenAI's clients expect.
#pragma once

#include <optional>
#include <string>
#include <utility>

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

/// Ok, or the error that a client gets. Like Status: reading the error of an ok one aborts, so test ok() first.
class [[nodiscard]] ApiStatus {
 public:
  ApiStatus() = default;
  ApiStatus(ApiError error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return !error_.has_value(); }
  const ApiError& error() const {
    DUO_CHECK(!ok(), "the error of a value");
    return *error_;
  }

 private:
  std::optional<ApiError> error_;  // empty = ok
};

inline ApiStatus ApiOk() { return {}; }

/// Either a value or the error that a client gets. Like Result<T>: reading the value of an error aborts, so test ok()
/// first. DUO_ASSIGN_OR_RETURN takes it too.
template <typename T>
class [[nodiscard]] ApiResult {
 public:
  ApiResult(T value) : value_(std::move(value)) {}            // NOLINT(google-explicit-constructor)
  ApiResult(ApiError error) : status_(std::move(error)) {}    // NOLINT(google-explicit-constructor)
  ApiResult(ApiStatus failed) : status_(std::move(failed)) {  // NOLINT(google-explicit-constructor)
    DUO_CHECK(!status_.ok(), "a result needs a value or an error");
  }

  bool ok() const { return value_.has_value(); }
  const ApiStatus& status() const { return status_; }
  const ApiError& error() const { return status_.error(); }

  const T& value() const& {
    DUO_CHECK(ok(), "the value of an error");
    return *value_;
  }
  T& value() & { return const_cast<T&>(std::as_const(*this).value()); }
  T&& value() && { return std::move(value()); }
  const T& operator*() const& { return value(); }
  T& operator*() & { return value(); }
  T&& operator*() && { return std::move(value()); }
  const T* operator->() const { return &value(); }
  T* operator->() { return &value(); }

 private:
  std::optional<T> value_;
  ApiStatus status_;
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

/// Returns the error of an ApiStatus from the function around it.
#define DUO_RETURN_IF_API_ERROR(expr)                                                 \
  do {                                                                                \
    if (::duo::ApiStatus duo_status_ = (expr); !duo_status_.ok()) return duo_status_; \
  } while (false)
