// One connection as the HTTP library's stream: its bytes counted, its times kept, its framing checked.
#pragma once

#include <httplib.h>

#include <atomic>
#include <cstddef>
#include <string>

#include "base/clock.h"
#include "server/connection_table.h"
#include "server/http_framing.h"
#include "server/http_limits.h"

namespace duo {

/// When a limit is passed it answers by itself and then fails, so that the library says nothing more. Used by the
/// thread of the connection alone. All that it is given must outlive it; `body_bytes` is that of all connections.
class HttpConnection : public httplib::Stream {
 public:
  HttpConnection(int sock, const HttpLimits& limits, std::atomic<size_t>* body_bytes)
      : sock_(sock), limits_(limits), body_bytes_(body_bytes), framing_(limits.max_header_bytes) {}
  ~HttpConnection() override { ReleaseBody(); }
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  /// Waits for the first byte of a request, in `entry` too; false when none comes in time or the connection shall end.
  bool WaitForRequest(ConnectionTable::Entry* entry);
  /// After a request was answered: its body's memory goes back. Whether another request may follow on this connection:
  /// not after an answer of our own, nor where bytes of the body may be left that would be taken for a request.
  bool EndRequest();
  /// No further request may follow: the answer ends with the connection.
  void CloseAfterAnswer() { close_after_ = true; }

  /// Whether the client of the request that is being answered has gone. One that has only closed its sending side waits
  /// for its answer and stays (RFC 9112, 9.6). It looks like one that has closed both until something is sent to it, so
  /// an interim answer is: the system of a client that left resets the connection then.
  bool ClientGone();

  /// An answer from outside the library, the connection's last. `status_line` may have fields after a CR LF.
  void Answer(const char* status_line, const char* type, const char* message);
  /// Ends the own side. Bytes that the client still sends are read until it is silent for a moment, at most for so
  /// long: closing on unread bytes would reset the connection, and the client might never see the answer.
  void Linger(double max_seconds);
  void Close();

  // ---- httplib::Stream
  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* to, size_t size) override;
  ssize_t write(const char* from, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return sock_; }

 private:
  int Poll(short events, int timeout_ms) const;
  bool Reset() const;
  bool Fill();
  double SecondsLeft() const;
  bool ReadHeader(const char* bytes, size_t n);
  bool CountBody(size_t n);
  void ReleaseBody();

  int sock_;
  const HttpLimits& limits_;
  std::atomic<size_t>* body_bytes_;
  size_t claimed_ = 0;  // of that, by this connection
  ConnectionTable::Entry* entry_ = nullptr;
  bool has_answered_ = false;  // a request, on this connection
  char buffer_[16 << 10];
  size_t begin_ = 0, end_ = 0;  // of what is unread in it
  bool broken_ = false;         // answered by ourselves

  // ---- of the current request
  HttpFraming framing_;
  Clock::time_point begun_ = Clock::now();  // its header, then its body
  size_t n_body_ = 0;                       // bytes read
  bool close_after_ = false;
  bool writing_ = false;  // some of its answer is written
  bool probed_ = false;   // whether its client is there
};

}  // namespace duo
