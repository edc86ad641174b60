#include "server/http_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace duo {
namespace {

constexpr const char* kBadRequest = "invalid_request_error";
constexpr int kLookEveryMs = 100;
// Of every body; what is larger claims room in steps.
constexpr size_t kFreeBodyBytes = 64 << 10;
constexpr size_t kBodyStepBytes = size_t{1} << 20;

/// Set while the accepting thread answers a connection that there is no thread for.
thread_local bool refuse_connection = false;

/// Bytes of one connection, counted. When a limit is passed it answers by itself and then fails.
class Connection : public httplib::Stream {
 public:
  Connection(socket_t sock, const HttpLimits& limits, const std::atomic<socket_t>& server_socket,
             std::atomic<size_t>* body_bytes)
      : sock_(sock), limits_(limits), server_socket_(server_socket), body_bytes_(body_bytes) {}
  ~Connection() override { ReleaseBody(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Waits for the first byte of a request; false when none comes in time or the server stops.
  bool WaitForRequest() {
    const auto begin = Clock::now();
    while (server_socket_ != INVALID_SOCKET && SecondsSince(begin) < limits_.idle_timeout_s) {
      if (begin_ != end_ || Poll(POLLIN, kLookEveryMs) > 0) {
        request_begin_ = Clock::now();
        n_header_ = n_body_ = content_length_ = 0;
        in_body_ = has_body_ = close_after_ = false;
        header_.clear();
        ReleaseBody();
        return true;
      }
    }
    return false;
  }

  bool Gone() const {
    pollfd look{.fd = sock_, .events = POLLRDHUP, .revents = 0};
    return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
  }

  bool is_readable() const override { return begin_ != end_ || Poll(POLLIN, 0) > 0; }
  bool is_writable() const override { return Poll(POLLOUT, 0) > 0 && !Gone(); }

  /// Whether another request may follow. Not behind an answer of our own, nor where bytes of the body may be left that
  /// nobody read: they would be taken for a request.
  bool CanGoOn() const { return !broken_ && in_body_ && !close_after_ && n_body_ >= content_length_; }

  ssize_t read(char* to, size_t size) override {
    if (broken_) return -1;
    if (in_body_ && !has_body_) return 0;
    if (begin_ == end_ && !Fill()) return -1;
    size_t n = std::min(size, end_ - begin_);
    // Of a body no more than was announced: what follows is the next request.
    if (in_body_ && !close_after_) n = std::min(n, content_length_ - std::min(content_length_, n_body_));
    if (in_body_ && n == 0) return 0;
    if (!Count(buffer_ + begin_, n)) return -1;
    std::memcpy(to, buffer_ + begin_, n);
    begin_ += n;
    return static_cast<ssize_t>(n);
  }

  ssize_t write(const char* from, size_t size) override {
    if (broken_ || Poll(POLLOUT, limits_.idle_timeout_s * 1000) <= 0) return -1;
    ssize_t n;
    do {
      n = ::send(sock_, from, size, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n;
  }

  void get_remote_ip_and_port(std::string& ip, int& port) const override { Address(&::getpeername, &ip, &port); }
  void get_local_ip_and_port(std::string& ip, int& port) const override { Address(&::getsockname, &ip, &port); }
  socket_t socket() const override { return sock_; }

  /// Ends the connection. What the client still sends is read for a moment: closing on unread bytes would reset the
  /// connection, and the client might never see the answer.
  void Close(int most_reads) {
    constexpr int kLingerMs = 200;
    ::shutdown(sock_, SHUT_WR);
    for (int i = 0; i < most_reads && Poll(POLLIN, kLingerMs) > 0; ++i) {
      if (::recv(sock_, buffer_, sizeof buffer_, 0) <= 0) break;
    }
    ::close(sock_);
  }

  /// An answer from outside the library, the connection's last.
  void Answer(const char* status_line, const char* type, const char* message) {
    const std::string body =
        std::string(R"({"error":{"message":")") + message + R"(","type":")" + type + R"(","param":null,"code":null}})";
    const std::string text =
        std::string("HTTP/1.1 ") + status_line +
        "\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: " + std::to_string(body.size()) +
        "\r\n\r\n" + body;
    write(text.data(), text.size());
    broken_ = true;
  }

 private:
  int Poll(short events, int timeout_ms) const {
    pollfd look{.fd = sock_, .events = events, .revents = 0};
    int n;
    do {
      n = ::poll(&look, 1, timeout_ms);
    } while (n < 0 && errno == EINTR);
    return n;
  }

  // Looks at the server's own socket meanwhile, so that a silent client does not hold up its end.
  bool Fill() {
    const double left = limits_.request_timeout_s - SecondsSince(request_begin_);
    const double wait = std::min<double>(left, limits_.idle_timeout_s);
    const auto begin = Clock::now();
    while (Poll(POLLIN, kLookEveryMs) <= 0) {
      if (SecondsSince(begin) >= wait || server_socket_ == INVALID_SOCKET) return false;
    }
    ssize_t n;
    do {
      n = ::recv(sock_, buffer_, sizeof buffer_, 0);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) return false;
    begin_ = 0;
    end_ = static_cast<size_t>(n);
    return true;
  }

  // The library reads lines byte by byte, so that the empty line that ends a header is seen here.
  bool Count(const char* bytes, size_t n) {
    if (in_body_) {
      n_body_ += n;
      // Framing of chunks is no more than the content again.
      if (n_body_ > 2 * limits_.most_body_bytes + (size_t{1} << 20)) {
        Answer("413 Payload Too Large", kBadRequest, "the body is too large");
        return false;
      }
      if (ClaimBody()) return true;
      Answer("503 Service Unavailable\r\nRetry-After: 2", "server_error", "too many large requests at once");
      return false;
    }
    n_header_ += n;
    if (n_header_ > limits_.most_header_bytes) {
      Answer("431 Request Header Fields Too Large", kBadRequest, "the header is too large");
      return false;
    }
    for (size_t i = 0; i < n && !in_body_; ++i) {
      header_ += static_cast<char>(std::tolower(static_cast<unsigned char>(bytes[i])));
      if (bytes[i] == '\n' && header_.size() > 2 && header_.compare(header_.size() - 3, 3, "\n\r\n") == 0) EndHeader();
    }
    return true;
  }

  bool ClaimBody() {
    while (n_body_ > kFreeBodyBytes + claimed_) {
      claimed_ += kBodyStepBytes;
      if ((*body_bytes_ += kBodyStepBytes) > limits_.most_body_bytes_together()) return false;
    }
    return true;
  }

  void ReleaseBody() {
    *body_bytes_ -= claimed_;
    claimed_ = 0;
  }

  // A request that announces no body has none; the library would read until the client closes the connection. How long
  // a chunked one is only the library knows, and what is no request of HTTP may be anything: nothing follows these.
  void EndHeader() {
    in_body_ = true;
    const std::string kLength = "\ncontent-length:";
    const size_t length = header_.find(kLength);
    const bool chunked = header_.find("\ntransfer-encoding:") != std::string::npos;
    has_body_ = chunked || length != std::string::npos;
    close_after_ = chunked || header_.find(" http/1.") > header_.find('\n') ||
                   (length != std::string::npos && header_.find(kLength, length + 1) != std::string::npos);
    if (length == std::string::npos) return;
    size_t at = length + kLength.size();
    while (header_[at] == ' ' || header_[at] == '\t') ++at;
    const size_t end = std::min(header_.find_first_not_of("0123456789", at), header_.size());
    const auto parsed = std::from_chars(header_.data() + at, header_.data() + end, content_length_);
    if (parsed.ec != std::errc() || (header_[end] != '\r' && header_[end] != '\n')) close_after_ = true;
  }

  void Address(int (*get)(int, sockaddr*, socklen_t*), std::string* ip, int* port) const {
    sockaddr_storage address;
    socklen_t size = sizeof address;
    if (get(sock_, reinterpret_cast<sockaddr*>(&address), &size) != 0) return;
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

  socket_t sock_;
  const HttpLimits& limits_;
  const std::atomic<socket_t>& server_socket_;
  std::atomic<size_t>* body_bytes_;  // of all connections
  size_t claimed_ = 0;               // of that, by this one
  Clock::time_point request_begin_ = Clock::now();
  char buffer_[16 << 10];
  size_t begin_ = 0, end_ = 0;
  size_t n_header_ = 0, n_body_ = 0;
  bool in_body_ = false;
  bool has_body_ = false;
  size_t content_length_ = 0;  // as announced
  bool close_after_ = false;   // whatever follows this request
  bool broken_ = false;        // answered by ourselves
  std::string header_;         // of the current request, in lower case
};

thread_local Connection* current_connection = nullptr;

/// A thread for each connection up to a number; what comes then is answered at once.
class ConnectionThreads : public httplib::TaskQueue {
 public:
  explicit ConnectionThreads(size_t most) : most_(most) {}

  void enqueue(std::function<void()> task) override {
    {
      std::unique_lock lock(mutex_);
      Join(&lock);
      if (running_ < most_) {
        threads_.emplace_back();
        auto self = std::prev(threads_.end());
        try {
          *self = std::thread([this, self, task] {
            task();
            const std::lock_guard inner(mutex_);
            --running_;
            done_.splice(done_.end(), threads_, self);
            changed_.notify_all();
          });
          ++running_;
          return;
        } catch (const std::system_error&) {  // the system gives no further thread: as beyond the limit
          threads_.erase(self);
        }
      }
    }
    refuse_connection = true;
    task();
    refuse_connection = false;
  }

  void shutdown() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return running_ == 0; });
    Join(&lock);
  }

 private:
  void Join(std::unique_lock<std::mutex>* lock) {
    std::list<std::thread> ended;
    ended.splice(ended.end(), done_);
    lock->unlock();
    for (std::thread& thread : ended) thread.join();
    lock->lock();
  }

  const size_t most_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<std::thread> threads_, done_;
  size_t running_ = 0;
};

}  // namespace

namespace {

/// Parts of answers are for files: nobody asks for some bytes of a completion, or for one byte a thousand times.
const std::function<void(httplib::Request&)> kWholeAnswers = [](httplib::Request& request) { request.ranges.clear(); };

}  // namespace

HttpServer::HttpServer(const HttpLimits& limits) : limits_(limits) {
  set_payload_max_length(limits.most_body_bytes);
  new_task_queue = [most = static_cast<size_t>(limits.most_connections)] { return new ConnectionThreads(most); };
  // What the library tells clients about kept connections.
  set_keep_alive_timeout(limits.idle_timeout_s);
  set_keep_alive_max_count(size_t{1} << 30);
  set_tcp_nodelay(true);
  set_socket_options([](socket_t sock) {
    // A port whose last connections are still closing can be taken again; one that somebody listens on cannot.
    const int on = 1;
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    fcntl(sock, F_SETFD, FD_CLOEXEC);
  });
}

Result<int> HttpServer::Bind(const std::string& host, int port) {
  errno = 0;
  const int bound = port == 0 ? bind_to_any_port(host) : bind_to_port(host, port) ? port : -1;
  if (bound > 0) return bound;
  const int error = errno;
  const std::string why = error == EADDRINUSE ? "something else listens there; port 0 takes any free one"
                          : error == 0        ? "no such address on this machine"
                                              : std::strerror(error);
  const char* about = error == EADDRINUSE || error == EACCES ? "port" : error == 0 ? "host" : "";
  return Status(StatusCode::kIo, host + ":" + std::to_string(port) + ": " + why).About(about);
}

bool HttpServer::ClientGone() { return current_connection != nullptr && current_connection->Gone(); }

bool HttpServer::process_and_close_socket(socket_t sock) {
  Connection connection(sock, limits_, svr_sock_, &body_bytes_);
  if (refuse_connection) {
    // By the thread that accepts connections: nobody waits for this client.
    connection.Answer("503 Service Unavailable", "server_error", "too many connections");
    connection.Close(0);
  } else {
    ++n_connections_;
    current_connection = &connection;
    while (connection.WaitForRequest()) {
      bool closed = false;
      if (!process_request(connection, false, closed, kWholeAnswers) || closed || !connection.CanGoOn()) break;
    }
    current_connection = nullptr;
    --n_connections_;
    connection.Close(64);
  }
  return true;
}

}  // namespace duo
