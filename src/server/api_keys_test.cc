#include "server/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace duo {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string ErrorOf(const std::string& text) {
  const auto keys = ParseApiKeys(text, "keys.txt");
  if (keys.ok()) return "accepted";
  EXPECT_EQ(keys.status().code(), StatusCode::kInvalidArgument);
  return keys.status().message();
}

TEST(ApiKeys, OneLineForEachKey) {
  const auto keys = ParseApiKeys("# who\n\n anna  sk-1 \r\n\tben\tsk-2", "keys.txt");
  ASSERT_TRUE(keys.ok()) << keys.status().message();
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_EQ((*keys)[0].name, "anna");
  EXPECT_EQ((*keys)[0].key, "sk-1");
  EXPECT_EQ((*keys)[1].name, "ben");
  EXPECT_EQ((*keys)[1].key, "sk-2");
}

TEST(ApiKeys, ASingleKeyNeedsNoName) {
  for (const char* text : {"open-sesame\n", "open-sesame", "# the key\nopen-sesame\r\n\n"}) {
    const auto keys = ParseApiKeys(text, "keys.txt");
    ASSERT_TRUE(keys.ok()) << keys.status().message();
    ASSERT_EQ(keys->size(), 1u);
    EXPECT_EQ((*keys)[0].name, "");
    EXPECT_EQ((*keys)[0].key, "open-sesame");
  }
}

TEST(ApiKeys, WhatIsWrongIsNamedWithFileAndLineAndNoKey) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("keys.txt: the file holds no key"));
  EXPECT_THAT(ErrorOf("# nothing\n\n"), HasSubstr("the file holds no key"));
  EXPECT_THAT(ErrorOf("anna secret1\n\nanna secret2\n"), HasSubstr("keys.txt: line 3: the name \"anna\" occurs twice"));
  EXPECT_THAT(ErrorOf("anna secret1\nben secret1\n"), HasSubstr("line 2: \"anna\" and \"ben\" have the same key"));
  EXPECT_THAT(ErrorOf("anna secret1\nben\n"), HasSubstr("line 2: a key without a name"));
  EXPECT_THAT(ErrorOf("secret1\nanna secret2\n"), HasSubstr("line 2: a key without a name"));
  EXPECT_THAT(ErrorOf("anna secret1 secret2\n"), HasSubstr("line 1: expected NAME KEY"));
  for (const char* name : {"../anna", ".anna", "a/b", "ann\xc3\xa4"}) {
    EXPECT_THAT(ErrorOf(std::string(name) + " secret1"), HasSubstr("line 1: the name must be")) << name;
  }
  EXPECT_THAT(ErrorOf("anna secret\xc3\xa9"), HasSubstr("visible ASCII"));
  EXPECT_THAT(ErrorOf("anna " + std::string(kMaxApiKeyBytes + 1, 'x')), HasSubstr("longer than 1024 bytes"));
  EXPECT_EQ(ErrorOf("anna " + std::string(kMaxApiKeyBytes, 'x')), "accepted");
  for (const char* text : {"anna secret1\nanna secret2\n", "a/b secret1", "secret1\nsecret2\n", "x secret1 secret2"}) {
    EXPECT_THAT(ErrorOf(text), Not(HasSubstr("secret"))) << text;
  }
}

}  // namespace
}  // namespace duo
