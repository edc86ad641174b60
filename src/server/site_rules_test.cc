#include "server/site_rules.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

httplib::Request From(const std::string& host, const std::string& origin = "") {
  httplib::Request request;
  request.method = "GET";
  request.path = "/v1/models";
  if (!host.empty()) request.set_header("Host", host);
  if (!origin.empty()) request.set_header("Origin", origin);
  return request;
}

int StatusOf(const SiteRules& rules, const httplib::Request& request) {
  const ApiStatus status = CheckSite(rules, request);
  return status.ok() ? 200 : status.error().http_status;
}

SiteRules On(const std::string& host) {
  return {.host = host, .allowed_hosts = {}, .public_origin = "", .cors_origin = ""};
}

TEST(SiteRules, ServersOfThisMachineAnswerToItsNamesOnly) {
  const SiteRules rules = On("127.0.0.1");
  for (const char* host : {"127.0.0.1:8080", "localhost:8080", "LocalHost", "[::1]:8080", "127.8.9.10", ""}) {
    EXPECT_EQ(StatusOf(rules, From(host)), 200) << host;
  }
  for (const char* host : {"example.com", "127.0.0.1.example.com", "localhost.example.com:80", "10.0.0.1", "[::2]"}) {
    EXPECT_EQ(StatusOf(rules, From(host)), 403) << host;
  }
  EXPECT_EQ(StatusOf(On("0.0.0.0"), From("example.com")), 200) << "without a list every name is accepted";
  EXPECT_EQ(StatusOf(On("::1"), From("[::1]:80")), 200);
}

TEST(SiteRules, NamesThatWereGivenAreAnsweredTo) {
  SiteRules rules = On("127.0.0.1");
  rules.allowed_hosts = {"duo.example", "Other.example"};
  for (const char* host : {"duo.example", "DUO.example:99", "other.example", "localhost"}) {
    EXPECT_EQ(StatusOf(rules, From(host)), 200) << host;
  }
  for (const char* host : {"evil.example", "a.duo.example", "duo.example.evil", "10.0.0.1"}) {
    EXPECT_EQ(StatusOf(rules, From(host)), 403) << host;
  }
  rules.host = "0.0.0.0";
  for (const char* host : {"duo.example:8080", "10.0.0.1:8080", "[fe80::1]:80", "localhost"}) {
    EXPECT_EQ(StatusOf(rules, From(host)), 200) << host;
  }
  for (const char* host : {"evil.example", "10.0.0.1.evil.example", "[evil]"}) {
    EXPECT_EQ(StatusOf(rules, From(host)), 403) << host << ": the name of another site, made to point to this machine";
  }
}

TEST(SiteRules, APublicUrlIsTheServersOwn) {
  SiteRules rules = On("127.0.0.1");
  EXPECT_EQ(StatusOf(rules, From("llm.example:8443", "https://llm.example:8443")), 403);
  rules.public_origin = "https://llm.example:8443";
  EXPECT_EQ(StatusOf(rules, From("llm.example:8443", "https://llm.example:8443")), 200);
  EXPECT_EQ(StatusOf(rules, From("127.0.0.1:8080", "https://llm.example:8443")), 200) << "the proxy sent another Host";
  EXPECT_EQ(StatusOf(rules, From("127.0.0.1:8080", "https://llm.example")), 403);
  EXPECT_EQ(StatusOf(rules, From("127.0.0.1:8080", "https://evil.example:8443")), 403);
  EXPECT_EQ(StatusOf(rules, From("evil.example")), 403);
  rules.host = "0.0.0.0";
  EXPECT_EQ(StatusOf(rules, From("evil.example")), 403);
}

TEST(SiteRules, PagesOfOtherSitesNeedToBeNamed) {
  SiteRules rules = On("127.0.0.1");
  EXPECT_EQ(StatusOf(rules, From("127.0.0.1:8080", "http://127.0.0.1:8080")), 200);
  const httplib::Request other = From("127.0.0.1:8080", "https://site.example");
  EXPECT_EQ(StatusOf(rules, other), 403);
  EXPECT_EQ(StatusOf(rules, From("127.0.0.1:8080", "null")), 403);
  for (const auto& [origin, status] :
       {std::pair("https://other.example", 403), {"https://site.example", 200}, {"*", 200}}) {
    rules.cors_origin = origin;
    EXPECT_EQ(StatusOf(rules, other), status) << origin;
  }
}

TEST(SiteRules, UrlsBecomeOrigins) {
  for (const auto& [url, origin] : {std::pair("https://LLM.example.com:443/", "https://llm.example.com"),
                                    {"http://a:80", "http://a"},
                                    {"http://a:443", "http://a:443"},
                                    {"https://[::1]:8443/", "https://[::1]:8443"},
                                    {"https://10.0.0.1", "https://10.0.0.1"}}) {
    const Result<std::string> got = OriginOfUrl(url);
    ASSERT_TRUE(got.ok()) << url << ": " << got.status().message();
    EXPECT_EQ(*got, origin) << url;
  }
  for (const char* url : {"", "/", "llm.example", "ftp://a", "https://", "https:///", "https://a/b", "https://a?b",
                          "https://a:", "https://a:b", "https://a:65536", "https://a:0", "https://a:+1", "https://a b",
                          "https://[::1", "https://u@a"}) {
    EXPECT_EQ(OriginOfUrl(url).status().code(), StatusCode::kInvalidArgument) << url;
  }
}

TEST(SiteRules, BrowsersAreToldWhatTheyAskFor) {
  SiteRules rules = On("127.0.0.1");
  httplib::Request request = From("127.0.0.1", "https://app.example");
  request.method = "OPTIONS";
  request.set_header("Access-Control-Request-Headers", "authorization,content-type,x-stainless-lang");
  httplib::Response none;
  AddCorsHeaders(rules, request, &none);
  EXPECT_TRUE(none.headers.empty());

  rules.cors_origin = "https://app.example";
  httplib::Response asked;
  AddCorsHeaders(rules, request, &asked);
  EXPECT_EQ(asked.get_header_value("Access-Control-Allow-Origin"), "https://app.example");
  EXPECT_EQ(asked.get_header_value("Access-Control-Allow-Headers"), "authorization,content-type,x-stainless-lang");
  EXPECT_EQ(asked.get_header_value("Access-Control-Max-Age"), "7200");
  for (const std::string& wanted :
       {std::string(""), std::string("a\r\nSet-Cookie: b"), std::string("a;b"), std::string(3000, 'a')}) {
    request.headers.erase("Access-Control-Request-Headers");
    request.headers.emplace("Access-Control-Request-Headers", wanted);
    httplib::Response usual;
    AddCorsHeaders(rules, request, &usual);
    EXPECT_EQ(usual.get_header_value("Access-Control-Allow-Headers"), "Authorization, Content-Type") << wanted;
  }
}

}  // namespace
}  // namespace duo
