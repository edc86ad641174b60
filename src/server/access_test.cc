#include "server/access.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

httplib::Request Get(const std::string& path, const std::string& host) {
  httplib::Request request;
  request.method = "GET";
  request.path = path;
  request.set_header("Host", host);
  return request;
}

AccessRules Rules(const std::string& api_key = "") {
  AccessRules rules;
  rules.site.host = "127.0.0.1";
  if (!api_key.empty()) rules.api_keys.push_back({.name = "", .key = api_key});
  return rules;
}

httplib::Request GetWith(const std::string& authorization) {
  httplib::Request request = Get("/v1/status", "localhost");
  request.set_header("Authorization", authorization);
  return request;
}

int StatusOf(const AccessRules& rules, const httplib::Request& request) {
  const ApiStatus status = CheckAccess(rules, request);
  return status.ok() ? 200 : status.error().http_status;
}

TEST(Access, OtherSitesAreRefusedFirst) {
  EXPECT_EQ(StatusOf(Rules("secret"), Get("/v1/models", "evil.example")), 403);
  EXPECT_EQ(StatusOf(Rules("secret"), Get("/health", "evil.example")), 403);
}

TEST(Access, TheKeyIsAskedForWhereSomethingIsToBeHad) {
  const AccessRules rules = Rules("secret");
  for (const char* path : {"/", "/page.js", "/health"}) {
    EXPECT_EQ(StatusOf(rules, Get(path, "localhost")), 200) << path;
  }
  AccessRules no_page = rules;
  no_page.page = false;
  EXPECT_EQ(StatusOf(no_page, Get("/", "localhost")), 401);
  for (const char* path : {"/metrics", "/v1/models", "/v1/status"}) {
    httplib::Request request = Get(path, "localhost");
    EXPECT_EQ(StatusOf(rules, request), 401) << path;
    for (const char* wrong : {"Bearer secre", "Bearer secret2", "Bearer secreT", "secret", "Bearer "}) {
      request = Get(path, "localhost");
      request.set_header("Authorization", wrong);
      EXPECT_EQ(StatusOf(rules, request), 401) << path << " " << wrong;
    }
    request = Get(path, "localhost");
    request.set_header("Authorization", "Bearer secret");
    EXPECT_EQ(StatusOf(rules, request), 200) << path;
  }
}

TEST(Access, SchemesHaveNoCaseAndKeysHave) {
  for (const char* scheme : {"Bearer ", "bearer ", "BEARER "}) {
    EXPECT_EQ(StatusOf(Rules("SecRet"), GetWith(scheme + std::string("SecRet"))), 200) << scheme;
    EXPECT_EQ(StatusOf(Rules("SecRet"), GetWith(scheme + std::string("secret"))), 401) << scheme;
  }
  httplib::Request head = Get("/", "localhost");
  head.method = "HEAD";
  EXPECT_EQ(StatusOf(Rules("secret"), head), 200) << "HEAD needs no key where GET needs none";
  head.path = "/metrics";
  EXPECT_EQ(StatusOf(Rules("secret"), head), 401);
}

TEST(Access, KeysTellWhoAsks) {
  AccessRules rules = Rules();
  EXPECT_TRUE(CallerOf(rules, GetWith("")).sees_all) << "without keys all clients are one domain";
  rules.api_keys = {{.name = "", .key = "only"}};
  EXPECT_TRUE(CallerOf(rules, GetWith("Bearer only")).sees_all);
  EXPECT_FALSE(CallerOf(rules, GetWith("Bearer other")).sees_all);
  EXPECT_FALSE(CallerOf(rules, GetWith("Bearer other")).Sees("")) << "the owner of the key without a name";
  rules.api_keys = {{.name = "anna", .key = "a"}, {.name = "ben", .key = "b"}, {.name = "root", .key = "r"}};
  rules.admin = "root";
  for (const char* name : {"anna", "ben", "root"}) {
    const Caller caller = CallerOf(rules, GetWith(std::string("Bearer ") + name[0]));
    EXPECT_EQ(caller.owner, name);
    EXPECT_EQ(caller.sees_all, caller.owner == "root");
    EXPECT_TRUE(caller.Sees(name));
    EXPECT_EQ(caller.Sees("ben"), caller.owner != "anna");
  }
  rules.share_prefixes = true;
  const Caller caller = CallerOf(rules, GetWith("Bearer a"));
  EXPECT_EQ(caller.owner, "");
  EXPECT_TRUE(caller.sees_all);
}

TEST(Access, BodiesAreJsonAndNotPacked) {
  const AccessRules rules = Rules();
  httplib::Request request = Get("/v1/completions", "localhost");
  request.method = "POST";
  EXPECT_EQ(StatusOf(rules, request), 415);
  request.set_header("Content-Type", "application/json; charset=utf-8");
  EXPECT_EQ(StatusOf(rules, request), 200);
  request.set_header("Content-Encoding", "gzip");
  EXPECT_EQ(StatusOf(rules, request), 415);
  request = Get("/v1/sessions/name/save", "localhost");
  request.method = "POST";
  EXPECT_EQ(StatusOf(rules, request), 200) << "a save has no body";
}

}  // namespace
}  // namespace duo
