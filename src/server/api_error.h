// Errors in the format that OpenAI's clients expect.
#pragma once

#include <string>

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
