#include "server/http_framing.h"

#include <algorithm>
#include <charconv>
#include <system_error>

#include "base/strings.h"

namespace duo {
namespace {

bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsBlank(char c) { return c == ' ' || c == '\t'; }
bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

/// Whether `text` is a token, as names of methods and fields must be (RFC 9110, 5.6.2).
bool IsToken(std::string_view text) {
  const auto allowed = [](char c) {
    return IsLetter(c) || IsDigit(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  };
  return !text.empty() && std::all_of(text.begin(), text.end(), allowed);
}

bool SameName(std::string_view a, std::string_view lower_case) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  return a.size() == lower_case.size() &&
         std::equal(a.begin(), a.end(), lower_case.begin(), [&](char x, char y) { return lower(x) == y; });
}

}  // namespace

size_t HttpFraming::Feed(std::string_view bytes) {
  size_t n = 0;
  while (n < bytes.size() && !done_ && !error_) {
    const char c = bytes[n++];
    if (++n_bytes_ > max_header_bytes_) {
      Refuse(431, "the header is too large");
    } else if (c != '\n') {
      line_ += c;
    } else if (line_.empty() || line_.back() != '\r') {
      Refuse(400, "a line of the header does not end in CR LF");
    } else {
      line_.pop_back();
      EndLine(line_);
      line_.clear();
    }
  }
  return n;
}

void HttpFraming::EndLine(std::string_view line) {
  const auto stray = [](char c) { return IsControl(c) && c != '\t'; };
  if (std::any_of(line.begin(), line.end(), stray)) return Refuse(400, "a control character in the header");
  if (!has_request_line_) return RequestLine(line);
  if (line.empty()) return EndHeader();
  if (IsBlank(line.front())) return Refuse(400, "a field of the header continues on a second line");
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return Refuse(400, "a line of the header has no colon");
  const std::string_view name = line.substr(0, colon);
  if (!IsToken(name)) return Refuse(400, "a field name in the header is not valid, or a blank follows it");
  Field(name, Trim(line.substr(colon + 1), " \t"));
}

void HttpFraming::RequestLine(std::string_view line) {
  has_request_line_ = true;
  const size_t first = line.find(' '), last = line.rfind(' ');
  const bool three_parts = first != std::string_view::npos && first + 1 < last;
  if (!three_parts || !IsToken(line.substr(0, first))) {
    return Refuse(400, "the request could not be understood");
  }
  const std::string_view target = line.substr(first + 1, last - first - 1), version = line.substr(last + 1);
  if (std::any_of(target.begin(), target.end(), IsBlank)) return Refuse(400, "a blank in the request's target");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") return Refuse(400, "expected version 1.1 or 1.0 of HTTP");
  minor_version_ = version.back() - '0';
}

void HttpFraming::Field(std::string_view name, std::string_view value) {
  if (SameName(name, "host")) {
    if (++n_hosts_ > 1) Refuse(400, "Host: given twice");
  } else if (SameName(name, "transfer-encoding")) {
    if (chunked_) return Refuse(400, "Transfer-Encoding: given twice");
    if (!SameName(value, "chunked")) return Refuse(501, "Transfer-Encoding: expected chunked");
    chunked_ = true;
  } else if (SameName(name, "content-length")) {
    if (content_length_) return Refuse(400, "Content-Length: given twice");
    uint64_t length = 0;
    const char* end = value.data() + value.size();
    const auto parsed = std::from_chars(value.data(), end, length);
    // from_chars takes no sign for unsigned numbers.
    if (value.empty() || parsed.ec != std::errc() || parsed.ptr != end || length > INT64_MAX) {
      return Refuse(400, "Content-Length: expected a number of bytes");
    }
    content_length_ = length;
  }
}

void HttpFraming::EndHeader() {
  if (chunked_ && content_length_) return Refuse(400, "both Content-Length and Transfer-Encoding are given");
  if (chunked_ && !is_http_1_1()) return Refuse(400, "HTTP/1.0 has no Transfer-Encoding");
  if (n_hosts_ == 0 && is_http_1_1()) return Refuse(400, "Host: missing");
  done_ = true;
}

}  // namespace duo
