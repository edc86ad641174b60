#include "server/api_error.h"

namespace duo {

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
    case StatusCode::kInvalidArgument: {
      const size_t colon = status.message().find(": ");
      if (colon != std::string::npos && status.message().find(' ') > colon)
        error.param = status.message().substr(0, colon);
      break;
    }
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
    case StatusCode::kCancelled:  // by the server: a client that left asks for nothing
      error.http_status = 503;
      error.type = "server_error";
      error.code = "stopping";
      error.message = "the server is shutting down";
      break;
    default:
      error.http_status = 500;
      error.type = "server_error";
      break;
  }
  return error;
}

}  // namespace duo
