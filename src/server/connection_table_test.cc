#include "server/connection_table.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

namespace duo {
namespace {

constexpr double kPatient = 1e9;  // seconds

/// A pair of connected sockets.
struct Pair {
  Pair() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0); }
  ~Pair() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  int server() const { return ends[0]; }
  int client() const { return ends[1]; }
  /// Whether the client sees that the server has closed.
  bool Closed() const {
    char byte;
    return ::recv(client(), &byte, 1, MSG_DONTWAIT) == 0;
  }
  int ends[2] = {-1, -1};
};

TEST(ConnectionTable, PlacesComeBack) {
  ConnectionTable table(2, kPatient);
  EXPECT_TRUE(table.Admit());
  EXPECT_TRUE(table.Admit());
  EXPECT_FALSE(table.Admit());
  table.CancelAdmission();
  EXPECT_TRUE(table.Admit());
  const Pair pair;
  {
    const ConnectionTable::Entry entry(&table, pair.server());
    EXPECT_FALSE(table.Admit()) << "a connection that has just arrived is not closed";
  }
  EXPECT_TRUE(table.Admit());
  EXPECT_FALSE(table.Admit());
  EXPECT_FALSE(pair.Closed());
}

TEST(ConnectionTable, ThreadsMayBeFewerThanPlaces) {
  ConnectionTable table(8, kPatient);
  ASSERT_TRUE(table.Admit(1));
  EXPECT_FALSE(table.Admit(1));
  const Pair pair;
  ConnectionTable::Entry entry(&table, pair.server());
  EXPECT_TRUE(entry.Work());
  EXPECT_FALSE(table.Admit(1)) << "it is busy";
  EXPECT_TRUE(entry.WaitForRequest());
  EXPECT_TRUE(table.Admit(1));
  EXPECT_TRUE(pair.Closed());
  EXPECT_TRUE(table.Admit(2));
  EXPECT_FALSE(table.Admit(2));
}

TEST(ConnectionTable, TheOneThatIsIdleForLongestGivesWay) {
  ConnectionTable table(3, kPatient);
  const Pair pairs[3];
  std::unique_ptr<ConnectionTable::Entry> entries[3];
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(table.Admit());
    entries[i] = std::make_unique<ConnectionTable::Entry>(&table, pairs[i].server());
    EXPECT_TRUE(entries[i]->Work());
  }
  EXPECT_FALSE(table.Admit()) << "all are busy";
  EXPECT_TRUE(entries[1]->WaitForRequest());
  EXPECT_TRUE(entries[0]->WaitForRequest());
  EXPECT_TRUE(table.Admit());
  EXPECT_TRUE(pairs[1].Closed());
  EXPECT_FALSE(pairs[0].Closed() || pairs[2].Closed());
  EXPECT_FALSE(entries[1]->ReadHeader()) << "nothing may be read after it was closed";
  EXPECT_TRUE(entries[2]->Work());

  // A request that is arriving is not cut off.
  ASSERT_EQ(::send(pairs[0].client(), "G", 1, 0), 1);
  EXPECT_FALSE(table.Admit());
  EXPECT_TRUE(entries[0]->ReadHeader());
  EXPECT_FALSE(table.Admit()) << "its header has only begun";
  entries[1].reset();
  EXPECT_FALSE(table.Admit()) << "its place was already taken when it was closed";
  entries[0].reset();
  EXPECT_TRUE(table.Admit());
}

TEST(ConnectionTable, AHeaderThatTakesTooLongGivesWayAfterIdleOnes) {
  ConnectionTable table(2, -1);
  const Pair slow, idle;
  ASSERT_TRUE(table.Admit() && table.Admit());
  ConnectionTable::Entry slow_entry(&table, slow.server()), idle_entry(&table, idle.server());
  EXPECT_TRUE(idle_entry.Work() && idle_entry.WaitForRequest());
  EXPECT_TRUE(table.Admit());
  EXPECT_TRUE(idle.Closed());
  EXPECT_FALSE(slow.Closed());
  EXPECT_TRUE(table.Admit());
  EXPECT_TRUE(slow.Closed());
  EXPECT_FALSE(slow_entry.Work());
  EXPECT_FALSE(table.Admit());
}

TEST(ConnectionTable, OneThatEndsGivesWayFirst) {
  ConnectionTable table(2, kPatient);
  const Pair idle, ending;
  ASSERT_TRUE(table.Admit() && table.Admit());
  ConnectionTable::Entry idle_entry(&table, idle.server()), ending_entry(&table, ending.server());
  EXPECT_TRUE(idle_entry.Work() && idle_entry.WaitForRequest() && ending_entry.End());
  EXPECT_TRUE(table.Admit());
  EXPECT_TRUE(ending.Closed());
  EXPECT_FALSE(idle.Closed());
}

TEST(ConnectionTable, StoppingWakesAll) {
  ConnectionTable table(2);
  const Pair old_pair, new_pair;
  ASSERT_TRUE(table.Admit());
  ConnectionTable::Entry waits(&table, old_pair.server());
  table.Stop();
  pollfd look{.fd = old_pair.server(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(::poll(&look, 1, 0), 1);
  EXPECT_FALSE(waits.WaitForRequest());
  EXPECT_EQ(::send(old_pair.server(), "x", 1, MSG_NOSIGNAL), 1) << "answers are still written";
  ASSERT_TRUE(table.Admit());
  ConnectionTable::Entry late(&table, new_pair.server());
  look.fd = new_pair.server();
  EXPECT_EQ(::poll(&look, 1, 0), 1);
}

}  // namespace
}  // namespace duo
