// Tests of the error that a client gets. Values decide it, never the text of a sentence.
#include "server/api_error.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "server/unavailable.h"

namespace duo {
namespace {

TEST(ApiError, TheParameterIsTheSubject) {
  const Status wrong(StatusCode::kInvalidArgument, "sink is -1; expected 0 or more tokens");
  const ApiError error = FromStatus(wrong.About("duo.sink"));
  EXPECT_EQ(error.http_status, 400);
  EXPECT_EQ(error.param, "duo.sink");
  EXPECT_EQ(error.message, "duo.sink: sink is -1; expected 0 or more tokens");
  EXPECT_EQ(FromStatus(wrong).param, "");
}

TEST(ApiError, AColonInASentenceMeansNothing) {
  for (const char* sentence : {"/models/x/config.json: cannot be read", "http://127.0.0.1: refused", "stop: here"}) {
    const ApiError error = FromStatus(Status(StatusCode::kInvalidArgument, sentence));
    EXPECT_EQ(error.param, "") << sentence;
    EXPECT_EQ(error.message, sentence);
  }
}

struct NotNowCase {
  Unavailable why;
  int http_status;
  const char* type;
  const char* code;
  bool retry_after;
};

TEST(ApiError, EachReasonForNotNowHasItsOwnAnswer) {
  const NotNowCase cases[] = {
      {Unavailable::kQueueFull, 429, "rate_limit_error", "queue_full", true},
      {Unavailable::kStopping, 503, "server_error", "stopping", false},
      {Unavailable::kSessionBusy, 409, "conflict_error", "", false},
      {Unavailable::kNoMemory, 409, "conflict_error", "", false},
  };
  for (const NotNowCase& c : cases) {
    const Status status = NotNow(c.why, "the sentence");
    EXPECT_EQ(status.code(), StatusCode::kUnavailable);
    EXPECT_EQ(WhyUnavailable(status), c.why);
    EXPECT_EQ(WhyUnavailable(status.Annotate("the file F")), c.why) << "an annotation does not change the reason";
    const ApiError error = FromStatus(status);
    EXPECT_EQ(error.http_status, c.http_status);
    EXPECT_EQ(error.type, c.type);
    EXPECT_EQ(error.code, c.code);
    EXPECT_EQ(error.param, "") << "the reason is not a field of the request";
    EXPECT_EQ(error.retry_after_s > 0, c.retry_after);
    EXPECT_EQ(error.message, "the sentence");
  }
}

TEST(ApiError, OnlyAStoppingServerSaysThatItStops) {
  for (const StatusCode code : {StatusCode::kInvalidArgument, StatusCode::kNotFound, StatusCode::kCorrupt,
                                StatusCode::kUnsupported, StatusCode::kResourceExhausted, StatusCode::kIo,
                                StatusCode::kCancelled, StatusCode::kUnavailable, StatusCode::kInternal}) {
    const Status status(code, "the sentence");
    EXPECT_EQ(WhyUnavailable(status), std::nullopt);
    const ApiError error = FromStatus(status);
    EXPECT_EQ(error.message, "the sentence") << StatusCodeName(code);
    EXPECT_NE(error.code, "stopping") << StatusCodeName(code);
    EXPECT_GE(error.http_status, 400);
  }
  EXPECT_EQ(FromStatus(Stopping()).message, "the server is shutting down");
}

TEST(ApiError, StatusesBecomeWhatClientsKnow) {
  EXPECT_EQ(FromStatus(Status(StatusCode::kResourceExhausted, "x")).code, "memory_exceeded");
  EXPECT_EQ(FromStatus(Status(StatusCode::kNotFound, "x")).http_status, 404);
  EXPECT_EQ(PlainError(404, "x").type, "not_found_error");
  EXPECT_EQ(PlainError(405, "x").type, "invalid_request_error");
  EXPECT_EQ(PlainError(500, "x").type, "server_error");
  EXPECT_EQ(FromStatus(Status(StatusCode::kIo, "x")).http_status, 507);
  EXPECT_EQ(FromStatus(Status(StatusCode::kCorrupt, "x")).http_status, 409);
  EXPECT_EQ(FromStatus(Status(StatusCode::kInternal, "x")).http_status, 500);
  EXPECT_EQ(JsonText(ToJson(BadField("a", "b"))),
            R"({"error":{"code":null,"message":"a: b","param":"a","type":"invalid_request_error"}})");
}

TEST(ApiResult, IsAValueOrAnError) {
  ApiResult<std::unique_ptr<int>> value = std::make_unique<int>(5);
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(**value, 5);
  const std::unique_ptr<int> taken = *std::move(value);
  EXPECT_EQ(*taken, 5);
  const ApiResult<std::string> error = BadField("a", "b");
  ASSERT_FALSE(error.ok());
  EXPECT_EQ(error.error().param, "a");
  EXPECT_DEATH((void)*error, "the value of an error");
  EXPECT_DEATH((void)ApiResult<std::string>("text").error(), "the error of a value");
  EXPECT_DEATH((void)ApiResult<std::string>(ApiOk()), "needs a value or an error");
}

ApiStatus Check(const ApiStatus& first, const ApiResult<int>& second) {
  DUO_RETURN_IF_API_ERROR(first);
  DUO_ASSIGN_OR_RETURN(const int number, second);
  return number == 5 ? ApiOk() : BadField("number", "expected 5");
}

TEST(ApiStatus, IsOkOrAnErrorThatMacrosReturn) {
  EXPECT_TRUE(ApiStatus().ok());
  EXPECT_DEATH((void)ApiOk().error(), "the error of a value");
  EXPECT_TRUE(Check(ApiOk(), 5).ok());
  EXPECT_EQ(Check(BadField("a", "b"), BadField("c", "d")).error().param, "a");
  EXPECT_EQ(Check(ApiOk(), BadField("c", "d")).error().param, "c");
  EXPECT_EQ(Check(ApiOk(), 6).error().param, "number");
}

}  // namespace
}  // namespace duo
