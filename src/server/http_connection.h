// One connection as the HTTP library's stream. It counts bytes, enforces time limits and checks the framing.
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

/// When a limit is exceeded, the connection answers by itself and then fails, so that the library writes nothing more.
/// Used only by the thread of the connection. Everything it is given must outlive it. All connections share
/// `body_bytes`.
class HttpConnection : public httplib::Stream {
 public:
  HttpConnection(int sock, const HttpLimits& limits, std::atomic<size_t>* body_bytes)
      : sock_(sock), limits_(limits), body_bytes_(body_bytes), framing_(limits.max_header_bytes) {}
  ~HttpConnection() override { ReleaseBody(); }
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  /// Waits for the first byte of a request and keeps `entry` up to date. False when no byte comes in time or the
  /// connection must end.
  bool WaitForRequest(ConnectionTable::Entry* entry);
  /// Call it after a request was answered. Releases the memory of the body and returns whether another request may
  /// follow. None may follow after an answer of our own, or when unread bytes of the body could be taken for a request.
  bool EndRequest();
  /// Allows no further request, because the end of the connection marks the end of the answer.
  void CloseAfterAnswer() { close_after_ = true; }

  /// Whether the client of the current request has gone. A client that has only closed its sending side still waits for
  /// its answer (RFC 9112, 9.6). It looks like one that closed both sides until something is sent to it. So this sends
  /// an interim answer: the system of a client that left then resets the connection.
  bool ClientGone();

  /// Writes an answer without the library, as the connection's last one. `status_line` may hold fields after a CR LF.
  void Answer(const char* status_line, const char* type, const char* message);
  /// Closes the sending side. Then reads what the client still sends until it is silent for a moment, for at most
  /// `max_seconds`. Closing with unread bytes would reset the connection, and the client might never see the answer.
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
  size_t claimed_ = 0;  // bytes of *body_bytes_ that this connection has claimed
  ConnectionTable::Entry* entry_ = nullptr;
  bool has_answered_ = false;  // at least one request of this connection
  char buffer_[16 << 10];
  size_t begin_ = 0, end_ = 0;  // the unread part of buffer_
  bool broken_ = false;         // Answer() was called; the library may write no more

  // ---- of the current request
  HttpFraming framing_;
  Clock::time_point begun_ = Clock::now();  // when its header began, then when its body began
  size_t n_body_ = 0;                       // bytes of the body read
  bool close_after_ = false;
  bool writing_ = false;  // a part of its answer is written
  bool probed_ = false;   // ClientGone has sent an interim answer
};

}  // namespace duo
