// The table of connections. It knows which of them wait in silence, so that a full server can close those first.
#pragma once

#include <climits>
#include <cstdint>
#include <list>
#include <mutex>

#include "base/clock.h"

namespace duo {

/// Thread safe. A connection is admitted, then registered by an Entry for as long as its socket is open.
class ConnectionTable {
 public:
  /// An ordinary client sends its header at once, and may yet be slow by the round trips of a lost packet.
  static constexpr double kPatienceSeconds = 1;

  explicit ConnectionTable(int max_connections, double patience_s = kPatienceSeconds)
      : max_connections_(max_connections), patience_s_(patience_s) {}

  /// Takes a place for one more connection. When there is none, closes one that is silent and takes its place: one
  /// that ends already, else the one that has waited longest for a further request, else the one that has taken longest
  /// to send a header, if that is longer than the table's patience. False when all are at work. `n_threads`, where it
  /// is less than the table's limit, is what there is for connections now.
  bool Admit(int n_threads = INT_MAX);
  /// Gives back the place of a connection that was admitted and never registered.
  void GiveUp();

  /// Wakes all connections that wait for their clients: those end. Later ones end at once.
  void Stop();

  class Entry;

 private:
  enum class State : uint8_t {
    kEnding,  // its last answer is out; what the client still sends is not a request
    kIdle,    // answered, and waits for a further request
    kHeader,  // waits for its first request, or for the rest of a header
    kBusy,    // its request is being read or answered
  };
  struct Row {
    int sock;
    State state;
    Clock::time_point since;
    bool closed;  // to make room: its place is taken already
  };
  std::list<Row>::iterator Victim();

  const int max_connections_;
  const double patience_s_;
  std::mutex mutex_;
  std::list<Row> rows_;
  int n_admitted_ = 0;
  bool stopping_ = false;
};

/// One connection that was admitted. Its socket must stay open until the entry has gone.
class ConnectionTable::Entry {
 public:
  Entry(ConnectionTable* table, int sock);
  ~Entry();
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

  // Each tells the table what the connection does now. False when it was closed to make room, or the server stops:
  // nothing of a further request may be read then.
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
