// The table of open connections. It knows which of them are silent, so that a full server can close those first.
#pragma once

#include <climits>
#include <cstdint>
#include <list>

#include "base/clock.h"
#include "base/mutex.h"

namespace duo {

/// Thread safe. A connection is first admitted, then registered by an Entry for as long as its socket is open.
class ConnectionTable {
 public:
  /// An ordinary client sends its header at once. A lost packet may delay it by a few round trips.
  static constexpr double kPatienceSeconds = 1;

  explicit ConnectionTable(int max_connections, double patience_s = kPatienceSeconds)
      : max_connections_(max_connections), patience_s_(patience_s) {}

  /// Takes a place for one more connection. When no place is free, closes a silent connection and takes its place. It
  /// chooses one that is ending already, else the one that has waited longest for its next request. Failing both, it
  /// chooses the one that has taken longest to send a header, if that is longer than the table's patience. Returns
  /// false when it finds none. `n_threads` is the limit for this call where it is less than the table's.
  bool Admit(int n_threads = INT_MAX);
  /// Frees the place of a connection that was admitted but never registered.
  void CancelAdmission();

  /// Wakes all connections that wait for their clients, so that they end. Later ones end at once.
  void Stop();

  class Entry;

 private:
  enum class State : uint8_t {
    kEnding,  // its last answer is written; what the client still sends is ignored
    kIdle,    // has answered and waits for the next request
    kHeader,  // waits for its first request, or for the rest of a header
    kBusy,    // its request is being read or answered
  };
  struct Row {
    int sock;
    State state;
    Clock::time_point since;
    bool closed;  // closed to make room; another connection has its place
  };
  std::list<Row>::iterator Victim() DUO_REQUIRES(mutex_);

  const int max_connections_;
  const double patience_s_;
  Mutex mutex_;
  std::list<Row> rows_ DUO_GUARDED_BY(mutex_);
  int n_admitted_ DUO_GUARDED_BY(mutex_) = 0;
  bool stopping_ DUO_GUARDED_BY(mutex_) = false;
};

/// One admitted connection. Its socket must stay open for as long as the entry exists.
class ConnectionTable::Entry {
 public:
  Entry(ConnectionTable* table, int sock);
  ~Entry();
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

  // Each tells the table what the connection does now. Returns false when the connection was closed to make room or the
  // server stops. Then nothing of a further request may be read.
  bool WaitForRequest() { return Set(State::kIdle); }
  bool ReadHeader() { return Set(State::kHeader); }
  bool Work() { return Set(State::kBusy); }
  bool End() { return Set(State::kEnding); }

 private:
  bool Set(State state);

  ConnectionTable* table_;
  std::list<Row>::iterator row_;
};

}  // namespace duo
