#include "server/connection_table.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

namespace duo {
namespace {

bool HasInput(int sock) {
  pollfd query{.fd = sock, .events = POLLIN, .revents = 0};
  return ::poll(&query, 1, 0) > 0;
}

}  // namespace

// The place of a closed connection passes to the new one in the same hold of the mutex. So n_admitted_ stays the same,
// and the closed one's entry does not lower it when it ends.
bool ConnectionTable::Admit(int n_threads) {
  MutexLock lock(&mutex_);
  if (n_admitted_ < std::min(max_connections_, n_threads)) {
    ++n_admitted_;
    return true;
  }
  const auto victim = Victim();
  if (victim == rows_.end()) return false;
  victim->closed = true;
  ::shutdown(victim->sock, SHUT_RDWR);  // wakes its thread
  return true;
}

std::list<ConnectionTable::Row>::iterator ConnectionTable::Victim() {
  // The longest-waiting one of each kind. A connection whose answer is written goes before all others.
  auto idle = rows_.end(), slow = rows_.end();
  for (auto row = rows_.begin(); row != rows_.end(); ++row) {
    if (row->closed) continue;
    if (row->state == State::kEnding) return row;
    auto* best = row->state == State::kIdle ? &idle : row->state == State::kHeader ? &slow : nullptr;
    if (best == nullptr || (*best != rows_.end() && (*best)->since <= row->since)) continue;
    // Do not cut off a request that has just arrived. Its thread has not woken yet to say so.
    if (row->state == State::kIdle && HasInput(row->sock)) continue;
    *best = row;
  }
  if (idle != rows_.end()) return idle;
  return slow != rows_.end() && SecondsSince(slow->since) > patience_s_ ? slow : rows_.end();
}

void ConnectionTable::CancelAdmission() {
  MutexLock lock(&mutex_);
  --n_admitted_;
}

void ConnectionTable::Stop() {
  MutexLock lock(&mutex_);
  stopping_ = true;
  // Only the reading side is closed: answers in progress may still be written.
  for (const Row& row : rows_) ::shutdown(row.sock, SHUT_RD);
}

ConnectionTable::Entry::Entry(ConnectionTable* table, int sock) : table_(table) {
  MutexLock lock(&table_->mutex_);
  row_ = table_->rows_.insert(table_->rows_.end(),
                              Row{.sock = sock, .state = State::kHeader, .since = Clock::now(), .closed = false});
  // Stop has woken the connections of its time. One that is registered after it is woken here.
  if (table_->stopping_) ::shutdown(sock, SHUT_RD);
}

// The socket is closed after this, so no other thread can find it in the table and shut down a later one of its number.
ConnectionTable::Entry::~Entry() {
  MutexLock lock(&table_->mutex_);
  if (!row_->closed) --table_->n_admitted_;
  table_->rows_.erase(row_);
}

bool ConnectionTable::Entry::Set(State state) {
  MutexLock lock(&table_->mutex_);
  // A state's time begins with its first report. So later pieces of a header do not restart its time.
  if (row_->state != state) {
    row_->state = state;
    row_->since = Clock::now();
  }
  return !row_->closed && !table_->stopping_;
}

}  // namespace duo
