// Errors as OpenAI's clients know them.
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

/// The error of a request whose work failed in this way. kInvalidArgument: 400, its param is the status's subject;
/// kResourceExhausted: 400, memory_exceeded; kUnsupported: 400; kNotFound: 404; kIo: 507; kCorrupt: 409; kUnavailable,
/// by its reason (server/unavailable.h): queue full 429 with Retry-After, stopping 503, session busy and no memory now
/// 409; kCancelled: 499, for a client that left; others: 500.
ApiError FromStatus(const Status& status);

/// A status and a sentence; the type follows from the status.
ApiError PlainError(int http_status, const std::string& message);

ApiError BadField(const std::string& param, const std::string& message);

}  // namespace duo
