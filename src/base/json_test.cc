#include "base/json.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace duo {
namespace {

TEST(Json, LinesMembersAndDifferences) {
  std::vector<int> seen;
  const auto line = [&](const Json& value, const std::string& where) {
    seen.push_back(value.get<int>());
    return seen.size() < 3 ? OkStatus() : Status(StatusCode::kCorrupt, where + ": enough");
  };
  EXPECT_TRUE(ForEachJsonLine("1\n\n \r\n2", "f", line).ok());
  EXPECT_EQ(seen, (std::vector<int>{1, 2}));
  EXPECT_EQ(ForEachJsonLine("3\n4\n", "f", line).message(), "f: line 1: enough");
  EXPECT_EQ(ForEachJsonLine("\nx\n", "f", line).message().rfind("f: line 2", 0), 0u);
  const Json object = {{"a", 1}};
  EXPECT_EQ(**JsonMember(object, "a", "w"), 1);
  EXPECT_EQ(JsonMember(object, "b", "w").status().message(), "w: b: missing");
  EXPECT_EQ(JsonMember(Json(3), "b", "w").status().message(), "w: b: missing");
  EXPECT_EQ(JsonDifference(object, object), "");
  EXPECT_EQ(JsonDifference(object, {{"a", 2}}), "a 1, not 2");
  EXPECT_EQ(JsonDifference(object, {{"b", 2}}), "b missing, not 2");
  EXPECT_EQ(JsonText({{"a", "\xff"}}), "{\"a\":\"\uFFFD\"}");
}

TEST(Json, ValuesAndWhatStandsForThem) {
  const Json o = Json::parse(R"({"n":3,"half":0.5,"text":"x","yes":true,"no":false,"null":null})");
  EXPECT_EQ(*JsonNumber(o, "n", "w"), 3);
  EXPECT_EQ(*JsonNumber(o, "half", "w"), 0.5);
  for (const char* key : {"text", "null", "none"}) EXPECT_FALSE(JsonNumber(o, key, "w").ok()) << key;
  EXPECT_EQ(*JsonNumberOr(o, "half", 7, "w"), 0.5);
  EXPECT_FALSE(JsonNumberOr(o, "text", 7, "w").ok());
  EXPECT_EQ(*JsonIntOr(o, "n", 7, "w"), 3);
  EXPECT_FALSE(JsonIntOr(o, "half", 7, "w").ok());
  EXPECT_EQ(*JsonString(o, "text", "w"), "x");
  EXPECT_FALSE(JsonString(o, "n", "w").ok());
  EXPECT_EQ(*JsonStringOr(o, "text", "y", "w"), "x");
  EXPECT_FALSE(JsonStringOr(o, "n", "y", "w").ok());
  EXPECT_TRUE(*JsonBoolOr(o, "yes", false, "w"));
  EXPECT_FALSE(*JsonBoolOr(o, "no", true, "w"));
  EXPECT_EQ(JsonBoolOr(o, "n", true, "w").status().message(), "w: n: expected true or false, found number 3");
  for (const char* key : {"null", "none"}) {
    EXPECT_EQ(*JsonNumberOr(o, key, 7, "w"), 7) << key;
    EXPECT_EQ(*JsonIntOr(o, key, 7, "w"), 7) << key;
    EXPECT_EQ(*JsonStringOr(o, key, "y", "w"), "y") << key;
    EXPECT_TRUE(*JsonBoolOr(o, key, true, "w")) << key;
  }
}

TEST(Json, AnOptionalMemberMayBeMissingOrNull) {
  const Json object = {{"a", 1}, {"null", nullptr}};
  ASSERT_NE(JsonOptional(object, "a"), nullptr);
  EXPECT_EQ(*JsonOptional(object, "a"), 1);
  for (const char* key : {"null", "none"}) EXPECT_EQ(JsonOptional(object, key), nullptr) << key;
  EXPECT_EQ(JsonOptional(Json(3), "a"), nullptr);
}

TEST(Json, ErrorsNameFileAndKey) {
  auto bad = ParseJson("{\"a\": }", "dir/config.json");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().message().rfind("dir/config.json: not valid JSON", 0), 0u);
  auto json =
      ParseJson(R"({"n": 3, "f": 8192.0, "h": 0.5, "s": "x", "z": null, "big": 18446744073709551615})", "c.json");
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(*JsonInt(*json, "n", "c.json"), 3);
  EXPECT_EQ(*JsonInt(*json, "f", "c.json"), 8192);
  EXPECT_EQ(*JsonIntOr(*json, "z", 5, "c.json"), 5);
  EXPECT_FALSE(JsonInt(*json, "h", "c.json").ok());
  EXPECT_FALSE(JsonInt(*json, "big", "c.json").ok());
  EXPECT_EQ(JsonInt(*json, "s", "c.json").status().message(), "c.json: s: expected a whole number, found string \"x\"");
  EXPECT_EQ(JsonString(*json, "none", "c.json").status().message(), "c.json: none: expected a string, found nothing");
  // Messages never contain the JSON library's exception names.
  for (const char* text : {"{\"a\": }", "[1e999]", "\"\\ud800\"", "\"\xff\"", ""}) {
    const std::string message = ParseJson(text, "f").status().message();
    EXPECT_EQ(message.rfind("f: not valid JSON: ", 0), 0u) << message;
    EXPECT_EQ(message.find("json.exception"), std::string::npos) << message;
  }
  EXPECT_FALSE(ParseJson(std::string(100000, '['), "deep").ok());
}

}  // namespace
}  // namespace duo
