#include "server/http_connection.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>

namespace duo {
namespace {

HttpLimits SmallLimits() {
  HttpLimits limits;
  limits.max_header_bytes = 1000;
  limits.max_body_bytes = 200 << 10;
  limits.max_body_bytes_together = 300 << 10;
  return limits;
}

class HttpConnectionTest : public ::testing::Test {
 protected:
  HttpConnectionTest() : table_(8) { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends_), 0); }
  ~HttpConnectionTest() override {
    connection_.reset();
    entry_.reset();
    ::close(ends_[0]);
    ::close(ends_[1]);
  }

  HttpConnection& Open(const HttpLimits& limits) {
    limits_ = limits;
    EXPECT_TRUE(table_.Admit());
    entry_ = std::make_unique<ConnectionTable::Entry>(&table_, ends_[0]);
    return *(connection_ = std::make_unique<HttpConnection>(ends_[0], limits_, &body_bytes_));
  }
  void Send(const std::string& bytes) {
    ASSERT_EQ(::send(ends_[1], bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  /// Reads a header as the library does: byte by byte, up to its empty line.
  std::string ReadHeader() {
    std::string header;
    for (char c; header.size() < 4 || header.compare(header.size() - 4, 4, "\r\n\r\n") != 0;) {
      if (connection_->read(&c, 1) != 1) return "";
      header += c;
    }
    return header;
  }
  size_t ReadBody(size_t most) {
    std::string to(most, 0);
    size_t n = 0;
    for (ssize_t got; n < most && (got = connection_->read(to.data() + n, most - n)) > 0;)
      n += static_cast<size_t>(got);
    return n;
  }
  /// The bytes that the client has received so far.
  std::string Received() {
    std::string text(1 << 16, 0);
    const ssize_t n = ::recv(ends_[1], text.data(), text.size(), MSG_DONTWAIT);
    text.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return text;
  }
  std::string StatusLine() {
    const std::string text = Received();
    return text.substr(0, text.find("\r\n"));
  }

  int ends_[2] = {-1, -1};
  HttpLimits limits_;
  ConnectionTable table_;
  std::atomic<size_t> body_bytes_ = 0;
  std::unique_ptr<ConnectionTable::Entry> entry_;
  std::unique_ptr<HttpConnection> connection_;
};

std::string Post(size_t length) {
  return "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(length) + "\r\n\r\n";
}

TEST_F(HttpConnectionTest, RequestsFollowOneAnotherAtTheirEnds) {
  HttpConnection& connection = Open(SmallLimits());
  Send(Post(5) + "12345" + Post(2) + "ab");
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  EXPECT_EQ(ReadHeader(), Post(5));
  EXPECT_EQ(ReadBody(100), 5u);
  EXPECT_TRUE(connection.EndRequest());
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  EXPECT_EQ(ReadHeader(), Post(2));
  EXPECT_FALSE(connection.EndRequest()) << "the rest of the body could be taken for a request";
}

TEST_F(HttpConnectionTest, AHeaderThatTakesTooLongIsAnswered) {
  HttpLimits limits = SmallLimits();
  limits.header_timeout_s = 0;
  HttpConnection& connection = Open(limits);
  Send("GET / HT");
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  EXPECT_EQ(ReadHeader(), "");
  EXPECT_EQ(StatusLine(), "HTTP/1.1 408 Request Timeout");
  EXPECT_FALSE(connection.EndRequest());
}

TEST_F(HttpConnectionTest, ABodyMustCome) {
  HttpLimits limits = SmallLimits();
  limits.body_grace_s = 0;
  limits.min_body_bytes_per_s = 1 << 30;
  HttpConnection& connection = Open(limits);
  Send(Post(10));
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  EXPECT_EQ(ReadHeader(), Post(10));
  EXPECT_EQ(ReadBody(10), 0u);
  EXPECT_EQ(StatusLine(), "HTTP/1.1 408 Request Timeout");
}

TEST_F(HttpConnectionTest, BytesThatComeEarnTimeForMore) {
  HttpLimits limits = SmallLimits();
  limits.body_grace_s = 0;
  limits.min_body_bytes_per_s = 1;
  HttpConnection& connection = Open(limits);
  Send(Post(200));
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  Send(std::string(100, 'x'));
  char all[200];
  for (char c; connection.read(&c, 1) == 1 && c != '\n';) continue;
  for (char c; connection.read(&c, 1) == 1 && c != '\n';) continue;
  for (char c; connection.read(&c, 1) == 1 && c != '\n';) continue;
  for (char c; connection.read(&c, 1) == 1 && c != '\n';) continue;
  EXPECT_EQ(connection.read(all, sizeof all), 100) << "came with the header";
  Send(std::string(100, 'y'));
  EXPECT_EQ(connection.read(all, sizeof all), 100);
}

TEST_F(HttpConnectionTest, LengthsThatNobodyMeansAreRefused) {
  for (const char* field : {"Content-Length: -1", "Content-Length : 5", "Content-Length: 99999999999999999999999"}) {
    Open(SmallLimits());
    Send("POST / HTTP/1.1\r\nHost: a\r\n" + std::string(field) + "\r\n\r\n12345");
    ASSERT_TRUE(connection_->WaitForRequest(entry_.get()));
    EXPECT_EQ(ReadHeader(), "") << field;
    EXPECT_EQ(StatusLine(), "HTTP/1.1 400 Bad Request") << field;
    connection_.reset();
    entry_.reset();
  }
}

TEST_F(HttpConnectionTest, LargeBodiesShareTheirMemory) {
  std::atomic<size_t>& claimed = body_bytes_;
  HttpConnection& connection = Open(SmallLimits());
  claimed = 150 << 10;  // by other connections
  Send(Post(200 << 10));
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  EXPECT_EQ(ReadHeader(), Post(200 << 10));
  Send(std::string(100 << 10, 'x'));
  EXPECT_EQ(ReadBody(100 << 10), size_t{100} << 10);
  EXPECT_GE(claimed, size_t{(150 + 100 - 16) << 10});
  Send(std::string(100 << 10, 'x'));
  EXPECT_LT(ReadBody(100 << 10), size_t{100} << 10);
  const std::string answer = Received();
  EXPECT_EQ(answer.rfind("HTTP/1.1 503 Service Unavailable\r\nRetry-After: ", 0), 0u) << answer;
  EXPECT_FALSE(connection.EndRequest());
  EXPECT_EQ(claimed, size_t{150} << 10) << "everything is released";
}

TEST_F(HttpConnectionTest, BodiesOverTheLimitAreNotRead) {
  HttpConnection& connection = Open(SmallLimits());
  Send(Post((200 << 10) + 1));
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  EXPECT_NE(ReadHeader(), "");
  EXPECT_EQ(ReadBody(1), 0u);
  EXPECT_EQ(StatusLine(), "HTTP/1.1 413 Payload Too Large");
}

TEST_F(HttpConnectionTest, AClientThatOnlyEndsItsSideIsThere) {
  HttpConnection& connection = Open(SmallLimits());
  Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  EXPECT_NE(ReadHeader(), "");
  EXPECT_FALSE(connection.ClientGone());
  EXPECT_EQ(Received(), "") << "a client that is connected is not probed";
  ::shutdown(ends_[1], SHUT_WR);
  EXPECT_FALSE(connection.ClientGone());
  EXPECT_FALSE(connection.ClientGone());
  EXPECT_EQ(Received(), "HTTP/1.1 100 Continue\r\n\r\n") << "probed once";
  ::shutdown(ends_[1], SHUT_RDWR);
  ::close(ends_[1]);
  EXPECT_TRUE(connection.ClientGone());
  ends_[1] = ::dup(ends_[0]);  // the end of the test closes it
}

TEST_F(HttpConnectionTest, AClientIsNotAskedInTheMiddleOfItsAnswer) {
  HttpConnection& connection = Open(SmallLimits());
  Send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  EXPECT_NE(ReadHeader(), "");
  errno = EINTR;  // left by an earlier call; it must not affect the next one
  EXPECT_EQ(connection.write("HTTP/1.1 200 OK\r\n", 17), 17);
  ::shutdown(ends_[1], SHUT_WR);
  EXPECT_FALSE(connection.ClientGone());
  EXPECT_EQ(Received(), "HTTP/1.1 200 OK\r\n");
}

TEST_F(HttpConnectionTest, AClientThatDoesNotReadEndsItsAnswer) {
  HttpLimits limits = SmallLimits();
  limits.idle_timeout_s = 0;
  HttpConnection& connection = Open(limits);
  const std::string bytes(1 << 16, 'x');
  while (::send(ends_[0], bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) continue;
  EXPECT_EQ(connection.write("x", 1), -1);
}

TEST_F(HttpConnectionTest, BothEndsHaveAddresses) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0), client = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
  socklen_t size = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  ASSERT_EQ(::bind(listener, any, size), 0);
  ASSERT_EQ(::listen(listener, 1), 0);
  ASSERT_EQ(::getsockname(listener, any, &size), 0);
  const int listens = ntohs(address.sin_port);
  ASSERT_EQ(::connect(client, any, size), 0);
  ASSERT_EQ(::getsockname(client, any, &size), 0);
  const HttpConnection connection(::accept(listener, nullptr, nullptr), limits_, &body_bytes_);
  std::string ip;
  int port = 0;
  connection.get_remote_ip_and_port(ip, port);
  EXPECT_EQ(ip, "127.0.0.1");
  EXPECT_EQ(port, ntohs(address.sin_port));
  connection.get_local_ip_and_port(ip, port);
  EXPECT_EQ(ip, "127.0.0.1");
  EXPECT_EQ(port, listens);
  ::close(connection.socket());
  ::close(client);
  ::close(listener);
}

TEST_F(HttpConnectionTest, ClientsOfHttp10GetNoInterimAnswers) {
  HttpConnection& connection = Open(SmallLimits());
  Send("GET / HTTP/1.0\r\n\r\n");
  ASSERT_TRUE(connection.WaitForRequest(entry_.get()));
  EXPECT_NE(ReadHeader(), "");
  ::shutdown(ends_[1], SHUT_WR);
  EXPECT_FALSE(connection.ClientGone());
  EXPECT_EQ(Received(), "");
}

}  // namespace
}  // namespace duo
