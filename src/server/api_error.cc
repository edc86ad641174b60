#include "server/api_error.h"

#include <optional>

#include "server/unavailable.h"

namespace duo {
namespace {

// A client that found the queue full may try again after this time.
constexpr int kRetryAfterSeconds = 2;
// The status that nginx logs for a client that left before its answer. No client reads it.
constexpr int kClientLeft = 499;

ApiError NotNowError(const Status& status) {
  ApiError error;
  error.message = status.message();
  error.http_status = 503;
  error.type = "server_error";
  const std::optional<Unavailable> why = WhyUnavailable(status);
  if (why == Unavailable::kQueueFull) {
    error.http_status = 429;
    error.type = "rate_limit_error";
    error.code = "queue_full";
    error.retry_after_s = kRetryAfterSeconds;
  } else if (why == Unavailable::kStopping) {
    error.code = "stopping";
  } else if (why == Unavailable::kSessionBusy || why == Unavailable::kNoMemory) {
    error.http_status = 409;
    error.type = "conflict_error";
  }
  return error;
}

}  // namespace

Json ToJson(const ApiError& error) {
  const auto text_or_null = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); };
  return {{"error",
           {{"message", error.message},
            {"type", error.type},
            {"param", text_or_null(error.param)},
            {"code", text_or_null(error.code)}}}};
}

ApiError BadField(const std::string& param, const std::string& message) {
  ApiError error;
  error.message = param + ": " + message;
  error.param = param;
  return error;
}

ApiError PlainError(int http_status, const std::string& message) {
  ApiError error;
  error.http_status = http_status;
  if (http_status >= 500) error.type = "server_error";
  if (http_status == 404) error.type = "not_found_error";
  error.message = message;
  return error;
}

ApiError FromStatus(const Status& status) {
  ApiError error;
  error.message = status.message();
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
      if (!status.subject().empty()) return BadField(status.subject(), status.message());
      break;
    case StatusCode::kResourceExhausted: error.code = "memory_exceeded"; break;
    case StatusCode::kUnsupported: error.code = "unsupported"; break;
    case StatusCode::kNotFound:
      error.http_status = 404;
      error.type = "not_found_error";
      break;
    case StatusCode::kIo:
      error.http_status = 507;
      error.type = "server_error";
      break;
    case StatusCode::kCorrupt:
      error.http_status = 409;
      error.type = "conflict_error";
      break;
    case StatusCode::kUnavailable: return NotNowError(status);
    case StatusCode::kCancelled: error.http_status = kClientLeft; break;
    default:
      error.http_status = 500;
      error.type = "server_error";
      break;
  }
  return error;
}

}  // namespace duo
