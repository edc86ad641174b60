#include "base/error.h"

#include <gtest/gtest.h>

#include <string>

#include "duo/result.h"

namespace duo {
namespace {

TEST(Result, CarriesValueOrSentence) {
  Result<int> good = 7;
  EXPECT_TRUE(good.ok());
  EXPECT_EQ(*good, 7);
  Result<int> bad = Status(StatusCode::kCorrupt, "x.json: broken");
  EXPECT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().Annotate("loading").message(), "loading: x.json: broken");
  EXPECT_EQ(bad.status().subject(), "");
  const Status about = bad.status().About("sink").Annotate("pattern");
  EXPECT_EQ(about.subject(), "sink") << "a prefix changes only the sentence";
  EXPECT_EQ(about.message(), "pattern: x.json: broken");
  EXPECT_EQ(about.code(), bad.status().code());
  EXPECT_TRUE(OkStatus().About("sink").ok());
  EXPECT_EQ(OkStatus().About("sink").subject(), "");
  EXPECT_STREQ(StatusCodeName(StatusCode::kUnavailable), "unavailable");
  EXPECT_DEATH((void)bad.value(), "x.json: broken");
}

TEST(Error, CarriesItsCodeAndTheFormattedSentence) {
  const std::string path = "a {} b";
  const Status status = Corrupt("{}: {} tensors, expected {:.1f}", path, 3, 4.0);
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(status.message(), "a {} b: 3 tensors, expected 4.0");
  EXPECT_EQ(InvalidArgument("a").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(NotFound("a").code(), StatusCode::kNotFound);
  EXPECT_EQ(Unsupported("a").code(), StatusCode::kUnsupported);
  EXPECT_EQ(ResourceExhausted("a").code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(IoError("a").code(), StatusCode::kIo);
  EXPECT_EQ(UnavailableError("a").code(), StatusCode::kUnavailable);
  EXPECT_EQ(Internal("a").code(), StatusCode::kInternal);
  EXPECT_EQ(Cancelled().code(), StatusCode::kCancelled);
}

TEST(Error, ABadOptionIsTheSubjectOfItsError) {
  for (const Status& status : {BadOption("sink", -1, "0 or more"), BadOption("sink", "-1", "0 or more")}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.subject(), "sink");
    EXPECT_EQ(status.message(), "sink is -1; expected 0 or more");
  }
}

}  // namespace
}  // namespace duo
