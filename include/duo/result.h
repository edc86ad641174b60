// Errors as values. Bad input gives a Status or Result<T>; a bug in duo crashes (DUO_CHECK, base/check.h).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace duo {

enum class StatusCode {
  kOk,
  kInvalidArgument,    // the caller asked for something contradictory or out of range
  kNotFound,           // a file, tensor or key that must exist does not
  kCorrupt,            // bytes that break the rules of their format
  kUnsupported,        // well formed, but needs a feature that duo lacks
  kResourceExhausted,  // memory, disk or context length would not suffice; nothing was allocated
  kIo,                 // the operating system refused to read or write
  kCancelled,          // the caller's callback asked to stop
  kUnavailable,        // something is busy, full or stopping; the same call may succeed later
  kInternal,           // a computation gave NaN, or a library that duo uses failed and no other code fits
};

/// The code's name as printed in messages and JSON ("invalid argument").
const char* StatusCodeName(StatusCode code);

/// A code and one sentence for people: which file, which key, what was found, what was expected. Programs read the code
/// and the subject, never the sentence.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  /// The option or field that the error is about, by its name in the API ("max_tokens", "sink"); empty when the error
  /// is about none. A command line turns it into its own option, and a server reports it as the parameter.
  const std::string& subject() const { return subject_; }

  /// The same error with this subject. An ok status stays ok.
  Status About(std::string_view subject) const;
  /// The same error with `prefix` and ": " before its sentence ("reading pattern P: ..."). An ok status stays ok.
  Status Annotate(std::string_view prefix) const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
  std::string subject_;
};

inline Status OkStatus() { return {}; }

/// Either a value or the Status that says why there is none. Reading the value of an error aborts, so test ok() first.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    if (status_.ok()) DieOnOkStatus();
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  T& value() & { return Checked(); }
  const T& value() const& { return const_cast<Result*>(this)->Checked(); }
  T&& value() && { return std::move(Checked()); }
  T& operator*() & { return Checked(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(Checked()); }
  T* operator->() { return &Checked(); }
  const T* operator->() const { return &value(); }

 private:
  T& Checked() {
    if (!value_.has_value()) DieOnMissingValue(status_);
    return *value_;
  }
  [[noreturn]] static void DieOnMissingValue(const Status& status);
  [[noreturn]] static void DieOnOkStatus();

  std::optional<T> value_;
  Status status_;
};

namespace internal {
[[noreturn]] void DieBecauseResultHasNoValue(const Status& status);
[[noreturn]] void DieBecauseResultFromOkStatus();
}  // namespace internal

template <typename T>
void Result<T>::DieOnMissingValue(const Status& status) {
  internal::DieBecauseResultHasNoValue(status);
}
template <typename T>
void Result<T>::DieOnOkStatus() {
  internal::DieBecauseResultFromOkStatus();
}

}  // namespace duo

#define DUO_RETURN_IF_ERROR(expr)                                                  \
  do {                                                                             \
    if (::duo::Status duo_status_ = (expr); !duo_status_.ok()) return duo_status_; \
  } while (false)

#define DUO_CONCAT_INNER_(a, b) a##b
#define DUO_CONCAT_(a, b) DUO_CONCAT_INNER_(a, b)

/// DUO_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
#define DUO_ASSIGN_OR_RETURN(lhs, expr) DUO_ASSIGN_OR_RETURN_IMPL_(DUO_CONCAT_(duo_result_, __LINE__), lhs, expr)
#define DUO_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                               \
  if (!tmp.ok()) return tmp.status();              \
  lhs = std::move(tmp).value()
