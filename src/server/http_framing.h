// Finds where an HTTP/1.1 request ends: reads its header line by line and finds the length of its body (RFC 9112).
// Parses untrusted bytes from the network and knows no sockets; see fuzz/http_framing_fuzz.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace duo {

/// Why a request is refused after only its header was read.
struct FramingError {
  int http_status = 400;
  const char* message = "";
};

/// The header of one request. The library parses it again and is more lenient. This class refuses everything that two
/// readers could understand differently. So neither a proxy nor the library sees another end of the request.
class HttpFraming {
 public:
  /// Accepts at most this many bytes of header; more is error 431.
  explicit HttpFraming(size_t max_header_bytes) : max_header_bytes_(max_header_bytes) {}

  /// Takes bytes up to the end of the header and returns how many it took. Takes nothing after that end or an error.
  size_t Feed(std::string_view bytes);

  /// Whether the header has ended with its empty line and has no error.
  bool done() const { return done_; }
  const std::optional<FramingError>& error() const { return error_; }

  // ---- valid once done()
  /// Whether bytes of a body follow: a length was announced, or chunks.
  bool has_body() const { return chunked_ || content_length_.has_value(); }
  bool chunked() const { return chunked_; }
  /// As announced; 0 for a chunked body.
  uint64_t content_length() const { return content_length_.value_or(0); }
  /// Whether the client understands chunks and interim answers, which HTTP/1.0 does not have.
  bool is_http_1_1() const { return minor_version_ == 1; }

 private:
  void EndLine(std::string_view line);
  void RequestLine(std::string_view line);
  void Field(std::string_view name, std::string_view value);
  void EndHeader();
  void Refuse(int http_status, const char* message) { error_ = FramingError{http_status, message}; }

  size_t max_header_bytes_;
  size_t n_bytes_ = 0;
  std::string line_;  // the current line, not complete yet
  bool has_request_line_ = false;
  bool done_ = false;
  int minor_version_ = 1;
  int n_hosts_ = 0;
  bool chunked_ = false;
  std::optional<uint64_t> content_length_;
  std::optional<FramingError> error_;
};

}  // namespace duo
