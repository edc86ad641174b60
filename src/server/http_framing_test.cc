#include "server/http_framing.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace duo {
namespace {

constexpr size_t kMaxHeaderBytes = 1000;

HttpFraming Fed(std::string_view bytes) {
  HttpFraming framing(kMaxHeaderBytes);
  framing.Feed(bytes);
  return framing;
}

/// A request whose header has these lines besides its Host.
std::string Post(const std::string& lines) { return "POST /v1/x HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n"; }

int ErrorOf(const std::string& bytes) {
  const HttpFraming framing = Fed(bytes);
  EXPECT_FALSE(framing.done() && framing.error());
  return framing.error() ? framing.error()->http_status : framing.done() ? 200 : 0;
}

TEST(HttpFraming, TheHeaderEndsAtItsEmptyLine) {
  const std::string header = Post("Content-Length: 5\r\n");
  HttpFraming framing(kMaxHeaderBytes);
  EXPECT_EQ(framing.Feed(header + "12345GET / HTTP/1.1"), header.size());
  EXPECT_TRUE(framing.done());
  EXPECT_FALSE(framing.error());
  EXPECT_TRUE(framing.has_body() && !framing.chunked() && framing.is_http_1_1());
  EXPECT_EQ(framing.content_length(), 5u);
  EXPECT_EQ(framing.Feed("more"), 0u) << "the body does not belong to the header";
}

TEST(HttpFraming, PiecesAreTheWhole) {
  const std::string header = Post("X: \ty \r\ncontent-LENGTH:\t12  \r\n");
  HttpFraming framing(kMaxHeaderBytes);
  for (const char c : header) {
    EXPECT_FALSE(framing.done());
    EXPECT_EQ(framing.Feed(std::string_view(&c, 1)), 1u);
  }
  EXPECT_TRUE(framing.done());
  EXPECT_EQ(framing.content_length(), 12u);
}

TEST(HttpFraming, BodiesAreAnnounced) {
  EXPECT_FALSE(Fed(Post("")).has_body());
  EXPECT_TRUE(Fed(Post("Content-Length: 0\r\n")).has_body());
  const HttpFraming chunked = Fed(Post("Transfer-Encoding: Chunked\r\n"));
  EXPECT_TRUE(chunked.done() && chunked.chunked() && chunked.has_body());
  EXPECT_EQ(chunked.content_length(), 0u);
  EXPECT_EQ(Fed(Post("Content-Length: 9223372036854775807\r\n")).content_length(), uint64_t{INT64_MAX});
}

TEST(HttpFraming, LengthsThatTwoReadersTakeInTwoWaysAreRefused) {
  for (const char* lines :
       {"Content-Length: -1\r\n", "Content-Length: +1\r\n", "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 100000000000000000000000\r\n", "Content-Length: 0x10\r\n", "Content-Length: 5 5\r\n",
        "Content-Length: 5, 5\r\n", "Content-Length:\r\n", "Content-Length: five\r\n", "Content-Length: %35\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n", "Content-Length: 5\r\ncontent-length: 5\r\n",
        "Content-Length : 5\r\n", "Content-Length\t: 5\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"}) {
    EXPECT_EQ(ErrorOf(Post(lines)), 400) << lines;
  }
  for (const char* coding : {"gzip", "gzip, chunked", "xchunked", "chunked;a", "chunke%64", ""}) {
    EXPECT_EQ(ErrorOf(Post("Transfer-Encoding: " + std::string(coding) + "\r\n")), 501) << coding;
  }
  EXPECT_EQ(ErrorOf("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
}

TEST(HttpFraming, LinesAreOfTheirForm) {
  for (const char* lines : {"no colon\r\n", ": no name\r\n", "a b: c\r\n", "A: b\r\n folded\r\n", "A: b\n",
                            "A: b\rc\r\n", "(a): b\r\n", "Host: a\r\n", "host: b\r\n", "A: \x01\r\n"}) {
    EXPECT_EQ(ErrorOf(Post(lines)), 400) << lines;
  }
  EXPECT_EQ(ErrorOf(Post(std::string("A: \0b\r\n", 8))), 400);
  EXPECT_EQ(ErrorOf(Post("A: \xc3\xa9 \t!\r\nB:\r\n")), 200) << "values may be empty or not ASCII";
}

TEST(HttpFraming, RequestLinesAreOfTheirForm) {
  for (const char* line :
       {"", "GET", "GET /", "GET / HTTP/2.0", "GET / HTTP/1.2", "GET / http/1.1", "GET  HTTP/1.1", "GET / / HTTP/1.1",
        " GET / HTTP/1.1", "G(T / HTTP/1.1", "GET /\tx HTTP/1.1", "GET / HTTP/1.1 ", "\x16\x03\x01"}) {
    EXPECT_EQ(ErrorOf(std::string(line) + "\r\nHost: a\r\n\r\n"), 400) << line;
  }
  EXPECT_EQ(ErrorOf("GET / HTTP/1.1\nHost: a\r\n\r\n"), 400);
  EXPECT_EQ(ErrorOf("GET / HTTP/1.1\r\n\r\n"), 400) << "HTTP/1.1 requires a Host";
  EXPECT_EQ(ErrorOf("GET / HTTP/1.0\r\n\r\n"), 200);
  EXPECT_FALSE(Fed("GET / HTTP/1.0\r\n\r\n").is_http_1_1());
}

TEST(HttpFraming, HeadersAreBounded) {
  const std::string begin = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
  const std::string fits(kMaxHeaderBytes - begin.size() - 4, 'x');
  EXPECT_EQ(ErrorOf(begin + fits + "\r\n\r\n"), 200);
  EXPECT_EQ(ErrorOf(begin + fits + "x\r\n\r\n"), 431);
  EXPECT_EQ(ErrorOf(std::string(kMaxHeaderBytes, 'x')), 0);
  EXPECT_EQ(ErrorOf(std::string(kMaxHeaderBytes + 1, 'x')), 431);
  HttpFraming framing(kMaxHeaderBytes);
  EXPECT_EQ(framing.Feed(std::string(5 * kMaxHeaderBytes, 'x')), kMaxHeaderBytes + 1) << "nothing after an error";
}

}  // namespace
}  // namespace duo
