#include "server/request_json.h"

#include <gtest/gtest.h>

#include <string>

namespace duo {
namespace {

Json Parsed(const std::string& body) {
  const Result<Json> json = ParseRequestJson(body);
  EXPECT_TRUE(json.ok()) << body.substr(0, 100) << ": " << json.status().message();
  return json.ok() ? *json : Json();
}

std::string ErrorOf(const std::string& body) { return ParseRequestJson(body).status().message(); }

std::string Repeated(const std::string& text, int n) {
  std::string all;
  for (int i = 0; i < n; ++i) all += text;
  return all;
}

TEST(RequestJson, IsWhatTheLibraryReads) {
  for (const char* body :
       {R"({"a":[{"b":"c\u00e9"},null,true,-1,1.5,[],{}],"d":{"e":{"f":"g"}},"a2":""})", "[]", "{}", "null", "\"x\"",
        "-5", R"([1,"a",[2.5],3])", R"({"a":1,"a":"last"})", "[4294967296,1]", "[-1,1]"}) {
    EXPECT_EQ(Parsed(body), Json::parse(body)) << body;
  }
}

TEST(RequestJson, TokenIdsArePacked) {
  const Json json = Parsed(R"({"p":[[0,1,2147483647],[],["a"],[1,2,null]],"q":[7]})");
  EXPECT_EQ(UnpackIds(json["p"][0]), (std::vector<int32_t>{0, 1, 2147483647}));
  EXPECT_TRUE(json["p"][1].is_array() && json["p"][1].empty());
  EXPECT_FALSE(IsPackedIds(json["p"][2]));
  EXPECT_EQ(json["p"][3], Json::parse("[1,2,null]")) << "a value among ids that is not an id";
  EXPECT_EQ(UnpackIds(json["q"]), std::vector<int32_t>{7});
  EXPECT_STREQ(RequestTypeName(json["q"]), "array");
  const Json nested = Parsed("[1,[2]]");
  EXPECT_TRUE(nested.is_array() && nested[0] == 1) << "a list among ids";
  EXPECT_EQ(UnpackIds(nested[1]), std::vector<int32_t>{2});
  for (const char* body : {"[1,2147483648]", "[1,-1]", "[1,1.0]", "[1,[]]", "[1,{}]"}) {
    EXPECT_EQ(Parsed(body), Json::parse(body)) << body;
  }
}

TEST(RequestJson, ManyValuesAreRefusedWhileTheyAreRead) {
  EXPECT_NE(ErrorOf("[" + Repeated("{},", 100000) + "{}]").find("more values than"), std::string::npos);
  EXPECT_NE(ErrorOf("[" + Repeated("[],", 100000) + "[]]").find("more values than"), std::string::npos);
  EXPECT_NE(ErrorOf("[" + Repeated("1,", 100000) + "\"\"]").find("more values than"), std::string::npos)
      << "ids in an array that holds something else too";
  // The parser stops there and does not read the rest.
  EXPECT_NE(ErrorOf("[" + Repeated("{},", 100000)).find("more values than"), std::string::npos);
  EXPECT_EQ(UnpackIds(Parsed("[" + Repeated("1,", 100000) + "1]")).size(), 100001u);
  const std::string message = R"({"role":"user","content":"hi"},)";
  EXPECT_EQ(Parsed("[" + Repeated(message, 5000) + "{}]").size(), 5001u) << "a chat whose messages are single words";
  const std::string part = R"({"type":"text","text":"some words"},)";
  EXPECT_EQ(Parsed("[" + Repeated(part, 50000) + "{}]").size(), 50001u);
  EXPECT_EQ(Parsed("[" + Repeated("{},", 1999) + "{}]").size(), 2000u) << "small bodies may hold anything";
}

TEST(RequestJson, NestingIsBounded) {
  EXPECT_TRUE(ParseRequestJson(Repeated("[", 64) + Repeated("]", 64)).ok());
  EXPECT_NE(ErrorOf(Repeated("[", 65) + Repeated("]", 65)).find("nested deeper than 64"), std::string::npos);
  EXPECT_NE(ErrorOf(Repeated("{\"a\":", 100000)).find("nested deeper than 64"), std::string::npos);
}

TEST(RequestJson, WhatIsNotJsonIsSaidWithoutTheLibrarysNames) {
  for (const std::string& body : {std::string(""), std::string("{"), std::string("[1,]"), std::string("[1e999]"),
                                  std::string("\"\xff\""), std::string("[1]\0", 4), std::string("{\"a\":1} x")}) {
    const std::string error = ErrorOf(body);
    EXPECT_EQ(error.rfind("not valid JSON: ", 0), 0u) << body << ": " << error;
    EXPECT_EQ(error.find("json.exception"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace duo
