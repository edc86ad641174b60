#include "server/http_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/mutex.h"
#include "server/http_connection.h"

namespace duo {
namespace {

// Connections that the system accepts before the server has looked at them. The library asks for 5. In a burst,
// further clients would wait a second or more until their systems try again.
constexpr int kBacklog = 512;
// Time for reading what a client still sends after its last answer.
constexpr double kLingerSeconds = 3;

/// Set while the accepting thread answers a connection that got no place or no thread.
thread_local bool refuse_connection = false;

/// The connection whose request this thread handles. The library gives handlers no way to reach it.
thread_local HttpConnection* current_connection = nullptr;

/// Runs each connection that the table admits on a thread. Others are refused at once.
class ConnectionThreads : public httplib::TaskQueue {
 public:
  ConnectionThreads(ConnectionTable* table, WorkerThreads* threads, std::function<void(const std::string&)> log)
      : table_(table), threads_(threads), log_(std::move(log)) {}

  void enqueue(std::function<void()> task) override {
    if (table_->Admit()) {
      if (Start(task)) return;
      log_("the system allows no more threads (a limit on processes or memory); a connection is refused with 503");
    }
    // The library's task ends in process_and_close_socket, which has no parameter for this.
    refuse_connection = true;
    task();
    refuse_connection = false;
  }

  // The library destroys this queue after the call. So the last thing that a connection's thread does with it is
  // AddToCounts, which notifies under the mutex.
  void shutdown() override {
    MutexLock lock(&mutex_);
    changed_.wait(lock.native(), [this]() DUO_REQUIRES(mutex_) { return n_open_ == 0; });
  }

 private:
  // Starts a connection that was admitted. If the system allows no further thread, the current number of threads is the
  // limit: a silent connection is closed, and its thread serves this one.
  bool Start(const std::function<void()>& task) {
    AddToCounts(1, 1);
    if (threads_->Run([this, task] { Serve(task); })) return true;
    table_->CancelAdmission();
    if (table_->Admit(AddToCounts(-1, 0))) {
      threads_->RunLater([this, task] {
        AddToCounts(1, 0);
        Serve(task);
      });
      return true;
    }
    AddToCounts(0, -1);
    return false;
  }

  void Serve(const std::function<void()>& task) {
    task();
    AddToCounts(-1, -1);
  }

  /// Adds to both counts. Returns how many connections run.
  int AddToCounts(int running, int open) DUO_EXCLUDES(mutex_) {
    MutexLock lock(&mutex_);
    n_running_ += running;
    n_open_ += open;
    changed_.notify_all();
    return n_running_;
  }

  ConnectionTable* table_;
  WorkerThreads* threads_;
  std::function<void(const std::string&)> log_;
  Mutex mutex_;
  std::condition_variable changed_;
  int n_running_ DUO_GUARDED_BY(mutex_) = 0;  // connections that have a thread
  int n_open_ DUO_GUARDED_BY(mutex_) = 0;     // those, and connections that wait for a thread
};

/// Ignores requests for ranges of bytes. They are meant for files, and could ask for one byte a thousand times.
const std::function<void(httplib::Request&)> kWholeAnswers = [](httplib::Request& request) { request.ranges.clear(); };

}  // namespace

HttpServer::HttpServer(const HttpLimits& limits, WorkerThreads* threads, std::function<void(const std::string&)> log)
    : limits_(limits), connections_(limits.max_connections) {
  set_payload_max_length(limits.max_body_bytes);
  new_task_queue = [this, threads, log = std::move(log)] { return new ConnectionThreads(&connections_, threads, log); };
  // The library tells clients these values in the field Keep-Alive.
  set_keep_alive_timeout(limits.idle_timeout_s);
  set_keep_alive_max_count(size_t{1} << 30);
  set_tcp_nodelay(true);
  set_socket_options([](socket_t sock) {
    // This takes a port whose last connections are still closing, but not a port on which another program listens.
    const int on = 1;
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    fcntl(sock, F_SETFD, FD_CLOEXEC);
  });
}

Result<int> HttpServer::Bind(const std::string& host, int port) {
  errno = 0;
  const int bound = port == 0 ? bind_to_any_port(host) : bind_to_port(host, port) ? port : -1;
  if (bound > 0) {
    ::listen(svr_sock_, kBacklog);
    return bound;
  }
  const int error = errno;
  const std::string why = error == EADDRINUSE ? "something else listens there; port 0 takes any free one"
                          : error == 0        ? "no such address on this machine"
                                              : std::strerror(error);
  const char* about = error == EADDRINUSE || error == EACCES ? "port" : error == 0 ? "host" : "";
  return IoError("{}: {}", HostAndPort(host, port), why).About(about);
}

void HttpServer::Stop() {
  // After stop() the library waits for all connections. The table wakes those that wait for their clients.
  connections_.Stop();
  stop();
}

bool HttpServer::ClientGone() { return current_connection != nullptr && current_connection->ClientGone(); }

void HttpServer::FitToVersion(const httplib::Request& request, httplib::Response* response) {
  if (request.version != "HTTP/1.0" || !response->is_chunked_content_provider_) return;
  response->is_chunked_content_provider_ = false;
  response->set_header("Connection", "close");
  if (current_connection != nullptr) current_connection->CloseAfterAnswer();
}

bool HttpServer::process_and_close_socket(socket_t sock) {
  HttpConnection connection(sock, limits_, &body_bytes_);
  if (refuse_connection) {
    // This thread accepts connections, so it must not wait for this client.
    connection.Answer("503 Service Unavailable\r\nRetry-After: 2", "server_error", "too many connections");
    connection.Linger(0);
    connection.Close();
    return true;
  }
  {
    ConnectionTable::Entry entry(&connections_, sock);
    current_connection = &connection;
    bool closed = false;
    while (!closed && connection.WaitForRequest(&entry)) {
      const bool answered = process_request(connection, false, closed, kWholeAnswers);
      if (!connection.EndRequest() || !answered) break;
    }
    current_connection = nullptr;
    // From here on the table may close this connection first to make room.
    entry.End();
    connection.Linger(kLingerSeconds);
  }
  connection.Close();
  return true;
}

std::string HostAndPort(const std::string& host, int port) {
  const bool is_ipv6 = host.find(':') != std::string::npos && host[0] != '[';
  return is_ipv6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

}  // namespace duo
