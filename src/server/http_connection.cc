#include "server/http_connection.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <malloc.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace duo {
namespace {

constexpr const char* kBadRequest = "invalid_request_error";
constexpr const char* kInterim = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr size_t kBodyStepBytes = 4 << 10;
// After a request with a body of at least this size, free memory is returned to the system.
constexpr size_t kTrimBytes = 256 << 10;

const char* StatusLine(int http_status) {
  return http_status == 431   ? "431 Request Header Fields Too Large"
         : http_status == 501 ? "501 Not Implemented"
                              : "400 Bad Request";
}

void Address(int sock, int (*get)(int, sockaddr*, socklen_t*), std::string* ip, int* port) {
  sockaddr_storage address;
  socklen_t size = sizeof address;
  if (get(sock, reinterpret_cast<sockaddr*>(&address), &size) != 0) return;
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
    inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
    *port = ntohs(v4->sin_port);
  } else if (address.ss_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
    *port = ntohs(v6->sin6_port);
  }
  *ip = text;
}

}  // namespace

// An entry that returns false was closed to make room, or the server stops. The thread must not wait any longer then.
bool HttpConnection::WaitForRequest(ConnectionTable::Entry* entry) {
  entry_ = entry;
  if (has_answered_ && !entry->WaitForRequest()) return false;
  // The buffer may hold the beginning of the next request already.
  if (begin_ == end_ && Poll(POLLIN, limits_.idle_timeout_s * 1000) <= 0) return false;
  if (!entry->ReadHeader()) return false;
  framing_ = HttpFraming(limits_.max_header_bytes);
  begun_ = Clock::now();
  n_body_ = 0;
  close_after_ = writing_ = probed_ = false;
  return true;
}

// Memory comes first: the connection may now wait a long time for its next request.
bool HttpConnection::EndRequest() {
  ReleaseBody();
  has_answered_ = true;
  // Only the library knows the length of a chunked body.
  return !broken_ && !close_after_ && framing_.done() && !framing_.chunked() && n_body_ >= framing_.content_length();
}

bool HttpConnection::ClientGone() {
  if (Reset()) return true;
  if (probed_ || writing_ || !framing_.is_http_1_1() || Poll(POLLRDHUP, 0) <= 0) return false;
  // One probe per request is enough: after it, a client that left is known by the reset that it causes.
  probed_ = true;
  write(kInterim, std::strlen(kInterim));
  return Reset();
}

void HttpConnection::Answer(const char* status_line, const char* type, const char* message) {
  // ToJson(ApiError) has the same members. None of these texts needs an escape.
  const std::string body =
      fmt::format(R"({{"error":{{"message":"{}","type":"{}","param":null,"code":null}}}})", message, type);
  const std::string text =
      fmt::format("HTTP/1.1 {}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}",
                  status_line, body.size(), body);
  // Without `broken_` the library would send an answer of its own after this one.
  write(text.data(), text.size());
  broken_ = true;
}

void HttpConnection::Linger(double max_seconds) {
  constexpr int kSilentMs = 200;
  ::shutdown(sock_, SHUT_WR);
  const auto begin = Clock::now();
  while (SecondsSince(begin) < max_seconds && Poll(POLLIN, kSilentMs) > 0) {
    if (::recv(sock_, buffer_, sizeof buffer_, 0) <= 0) break;
  }
}

void HttpConnection::Close() {
  // Bytes that came since Linger would reset the connection, and the client might lose the answer.
  ::recv(sock_, buffer_, sizeof buffer_, MSG_DONTWAIT);
  ::close(sock_);
}

bool HttpConnection::is_readable() const { return begin_ != end_ || Poll(POLLIN, 0) > 0; }
bool HttpConnection::is_writable() const { return !Reset() && Poll(POLLOUT, 0) > 0; }

ssize_t HttpConnection::read(char* to, size_t size) {
  if (broken_) return -1;  // our own answer was the last one
  const bool in_body = framing_.done();
  if (in_body && !framing_.has_body()) return 0;
  // The library reads a body only after the server's handler has accepted the header.
  if (in_body && framing_.content_length() > limits_.max_body_bytes) {
    Answer("413 Payload Too Large", kBadRequest, "the body is too large");
    return -1;
  }
  // Bytes after the announced length belong to the next request.
  const size_t left = in_body && !framing_.chunked() ? framing_.content_length() - n_body_ : size;
  if (left == 0) return 0;
  if (begin_ == end_ && !Fill()) return -1;
  const size_t n = std::min({size, left, end_ - begin_});
  if (in_body ? !CountBody(n) : !ReadHeader(buffer_ + begin_, n)) return -1;
  std::memcpy(to, buffer_ + begin_, n);
  begin_ += n;
  return n;
}

ssize_t HttpConnection::write(const char* from, size_t size) {
  if (broken_ || Poll(POLLOUT, limits_.idle_timeout_s * 1000) <= 0) return -1;
  // An interim answer may come before the answer, but not inside it.
  writing_ = writing_ || std::string_view(from, size) != kInterim;
  ssize_t n;
  do {
    n = ::send(sock_, from, size, MSG_NOSIGNAL);
  } while (n < 0 && errno == EINTR);
  return n;
}

void HttpConnection::get_remote_ip_and_port(std::string& ip, int& port) const {
  Address(sock_, &::getpeername, &ip, &port);
}
void HttpConnection::get_local_ip_and_port(std::string& ip, int& port) const {
  Address(sock_, &::getsockname, &ip, &port);
}

int HttpConnection::Poll(short events, int timeout_ms) const {
  pollfd query{.fd = sock_, .events = events, .revents = 0};
  int n;
  do {
    n = ::poll(&query, 1, timeout_ms);
  } while (n < 0 && errno == EINTR);
  return n;
}

// Whether both sides are closed or the connection was reset, so that nobody reads any more. This is not so when a
// client has only closed its sending side.
bool HttpConnection::Reset() const {
  pollfd query{.fd = sock_, .events = 0, .revents = 0};
  return ::poll(&query, 1, 0) > 0 && (query.revents & (POLLHUP | POLLERR)) != 0;
}

double HttpConnection::SecondsLeft() const {
  // A client that sends a byte now and then would hold its connection for ever if only silence were limited. So the
  // whole header has a time, and a body earns its time by its bytes.
  const double spent = SecondsSince(begun_);
  if (!framing_.done()) return limits_.header_timeout_s - spent;
  const double earned = static_cast<double>(n_body_) / static_cast<double>(limits_.min_body_bytes_per_s);
  return std::min<double>(limits_.idle_timeout_s, limits_.body_grace_s + earned - spent);
}

bool HttpConnection::Fill() {
  const double left = SecondsLeft();
  if (left <= 0 || Poll(POLLIN, static_cast<int>(left * 1000) + 1) <= 0) {
    Answer("408 Request Timeout", kBadRequest, "the request came too slowly");
    return false;
  }
  ssize_t n;
  do {
    n = ::recv(sock_, buffer_, sizeof buffer_, 0);
  } while (n < 0 && errno == EINTR);
  if (n <= 0) return false;
  begin_ = 0;
  end_ = n;
  return true;
}

// The library reads lines byte by byte, so it never takes more than the header here.
bool HttpConnection::ReadHeader(const char* bytes, size_t n) {
  framing_.Feed(std::string_view(bytes, n));
  if (const auto& error = framing_.error()) {
    Answer(StatusLine(error->http_status), kBadRequest, error->message);
    return false;
  }
  if (!framing_.done()) return true;
  // The time of the body begins now. The request counts as busy from here on, so it is not closed to make room.
  begun_ = Clock::now();
  return entry_ == nullptr || entry_->Work();
}

bool HttpConnection::CountBody(size_t n) {
  n_body_ += n;
  // The framing of chunks counts too. It may take as many bytes as the content.
  if (framing_.chunked() && n_body_ > 2 * limits_.max_body_bytes + kBodyStepBytes) {
    Answer("413 Payload Too Large", kBadRequest, "the body is too large");
    return false;
  }
  const size_t counted = std::min(n_body_, limits_.max_body_bytes);
  while (counted > kUncountedBodyBytes + claimed_) {
    const size_t step = std::min(kBodyStepBytes, limits_.max_body_bytes - claimed_);
    claimed_ += step;
    // Claimed first and compared then: of two connections that claim at once, at least one sees the sum of both.
    if ((*body_bytes_ += step) <= limits_.max_body_bytes_together) continue;
    Answer("503 Service Unavailable\r\nRetry-After: 2", "server_error", "too many large requests at once");
    return false;
  }
  return true;
}

// The many small blocks of a parsed body leave holes that the C library keeps. The body and its values are freed now.
void HttpConnection::ReleaseBody() {
  if (claimed_ >= kTrimBytes) malloc_trim(0);
  *body_bytes_ -= claimed_;
  claimed_ = 0;
}

}  // namespace duo
