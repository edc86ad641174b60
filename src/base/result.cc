#include "duo/result.h"

#include <cstdio>
#include <cstdlib>

#include "base/check.h"
#include "base/error.h"
#include "duo/version.h"

namespace duo {

const char* StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return "ok";
    case StatusCode::kInvalidArgument: return "invalid argument";
    case StatusCode::kNotFound: return "not found";
    case StatusCode::kCorrupt: return "corrupt";
    case StatusCode::kUnsupported: return "unsupported";
    case StatusCode::kResourceExhausted: return "resource exhausted";
    case StatusCode::kIo: return "input/output error";
    case StatusCode::kCancelled: return "cancelled";
    case StatusCode::kUnavailable: return "unavailable";
    case StatusCode::kInternal: return "internal error";
  }
  return "unknown";
}

Status Status::About(std::string_view subject) const {
  Status status = *this;
  if (!ok()) status.subject_ = subject;
  return status;
}

Status Status::Annotate(std::string_view prefix) const {
  Status status = *this;
  if (!ok()) status.message_ = std::string(prefix) + ": " + message_;
  return status;
}

Status FormatError(StatusCode code, fmt::string_view format, fmt::format_args args) {
  return Status(code, fmt::vformat(format, args));
}

const char* Version() { return DUO_VERSION; }

namespace internal {

// The library writes nothing else. The process ends right after this message.
void CheckFailed(const char* file, int line, const char* condition, const char* message) {
  std::fprintf(stderr, "duo: %s:%d: check failed: %s: %s\n", file, line, condition, message);
  std::abort();
}

void DieBecauseResultHasNoValue(const Status& status) {
  CheckFailed(__FILE__, __LINE__, "Result::ok()", status.message().c_str());
}

void DieBecauseResultFromOkStatus() {
  CheckFailed(__FILE__, __LINE__, "!status.ok()", "a Result was made from an ok Status");
}

}  // namespace internal
}  // namespace duo
