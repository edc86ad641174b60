// Parses any bytes as the header of a request, whole and in pieces. Both find the same end, and an accepted header has
// only one meaning.
#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "server/http_framing.h"

namespace {

constexpr size_t kMaxHeaderBytes = 4096;

/// Counts the lines of an accepted header that begin with this name and a colon. Simpler than the reader under test.
int CountFields(std::string_view header, const std::string& lower_case_name) {
  std::string lower(header);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); });
  int n = 0;
  for (size_t at = 0; (at = lower.find("\r\n" + lower_case_name, at)) != std::string::npos; ++at) {
    size_t colon = at + 2 + lower_case_name.size();
    while (colon < lower.size() && (lower[colon] == ' ' || lower[colon] == '\t')) ++colon;
    if (colon < lower.size() && lower[colon] == ':') ++n;
  }
  return n;
}

void CheckAccepted(const duo::HttpFraming& framing, std::string_view header) {
  DUO_CHECK(header.size() <= kMaxHeaderBytes && header.substr(header.size() - 4) == "\r\n\r\n", "a whole header");
  DUO_CHECK(header.find("\r\n\r\n") == header.size() - 4, "a header ends at its first empty line");
  DUO_CHECK(header.find('\0') == std::string_view::npos, "a header has no NUL");
  DUO_CHECK(std::count(header.begin(), header.end(), '\r') == std::count(header.begin(), header.end(), '\n'), "CR LF");
  const int lengths = CountFields(header, "content-length"), codings = CountFields(header, "transfer-encoding");
  DUO_CHECK(lengths + codings == (framing.has_body() ? 1 : 0), "one announcement of a body, or none");
  DUO_CHECK(framing.chunked() == (codings == 1), "chunks were announced");
  DUO_CHECK(framing.content_length() == 0 || lengths == 1, "a length was announced");
  DUO_CHECK(framing.content_length() <= static_cast<uint64_t>(INT64_MAX), "the length fits in 63 bits");
  DUO_CHECK(CountFields(header, "host") == 1 || (!framing.is_http_1_1() && CountFields(header, "host") == 0),
            "one host");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t piece = data[0] % 16 + 1;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  duo::HttpFraming whole(kMaxHeaderBytes), pieces(kMaxHeaderBytes);
  const size_t n = whole.Feed(bytes);
  DUO_CHECK(n <= bytes.size() && !(whole.done() && whole.error()), "one end");
  size_t n_pieces = 0;
  while (n_pieces < bytes.size() && !pieces.done() && !pieces.error())
    n_pieces += pieces.Feed(bytes.substr(n_pieces, piece));
  DUO_CHECK(n_pieces == n && pieces.done() == whole.done(), "pieces end where the whole does");
  DUO_CHECK(pieces.error().has_value() == whole.error().has_value(), "pieces fail where the whole does");
  if (whole.error()) {
    DUO_CHECK(whole.error()->http_status >= 400 && whole.error()->http_status <= 501, "an error of HTTP");
    DUO_CHECK(std::string_view(whole.error()->message).find_first_of("\"\\\r\n") == std::string_view::npos,
              "a message needs no escapes in JSON");
  } else if (whole.done()) {
    DUO_CHECK(whole.Feed("x") == 0, "nothing after the end");
    CheckAccepted(whole, bytes.substr(0, n));
  } else {
    DUO_CHECK(n == bytes.size(), "all bytes are taken while more may come");
  }
  return 0;
}
