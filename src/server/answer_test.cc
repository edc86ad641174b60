// Tests of the answers to completions that follow from what jobs report.
#include "server/answer.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/data_for_test.h"

namespace duo {
namespace {

class AnswerTest : public ::testing::Test {
 protected:
  std::vector<int32_t> Ids(const std::string& text) const { return tokenizer_.Encode(text, SpecialTokens::kNone); }
  std::shared_ptr<Job> Submit(const std::string& prompt) {
    JobRequest request;
    request.prompt = Ids(prompt);
    request.session.heads = {.n_layers = 1, .n_kv_heads = 4, .retrieval = {1, 0, 0, 0}};
    jobs_.push_back(std::make_shared<Job>(std::move(request)));
    return jobs_.back();
  }
  std::shared_ptr<AnswerWriter> Writer(CompletionKind kind, CompletionRequest request, double max_seconds = 0) {
    return std::make_shared<AnswerWriter>(kind, std::move(request), "id-1", "a model", &tokenizer_, max_seconds);
  }
  /// The answer as a whole, without a stream.
  Json Whole(CompletionKind kind, const CompletionRequest& request) {
    httplib::Response response;
    const ApiStatus status = Writer(kind, request)->Wait(jobs_, &response);
    EXPECT_TRUE(status.ok()) << status.error().message;
    return Json::parse(response.body);
  }
  /// The events of a stream, without "data: "; comments begin with ": ".
  std::vector<std::string> Events(CompletionKind kind, const CompletionRequest& request) {
    httplib::Response response;
    const ApiStatus status = Writer(kind, request)->Stream(jobs_, &response, nullptr);
    EXPECT_TRUE(status.ok()) << status.error().message;
    std::string all;
    bool done = false;
    httplib::DataSink sink;
    sink.write = [&](const char* bytes, size_t n) { return all.append(bytes, n), true; };
    sink.done = [&] { done = true; };
    while (!done && response.content_provider_(0, 0, sink)) continue;
    std::vector<std::string> events;
    for (size_t begin = 0, end; (end = all.find("\n\n", begin)) != std::string::npos; begin = end + 2) {
      const std::string event = all.substr(begin, end - begin);
      events.push_back(event.rfind("data: ", 0) == 0 ? event.substr(6) : event);
    }
    return events;
  }
  static CompletionRequest Asking(Prompt prompt) {
    CompletionRequest request;
    request.prompts.push_back(std::move(prompt));
    return request;
  }
  static JobStats Stats(int64_t n_generated, FinishReason finish = FinishReason::kMaxTokens) {
    return {.n_prompt = 12,
            .n_cached = 2,
            .n_generated = n_generated,
            .queue_s = 0.5,
            .prefill_s = 4,
            .first_token_s = 5,
            .decode_s = 2,
            .kv_bytes = 1000,
            .finish = finish};
  }

  const Tokenizer tokenizer_ = Tokenizer::Open(SourceDir() + "/tests/data/tokenizers/gpt2").value();
  AnswerWriter::Jobs jobs_;
};

TEST_F(AnswerTest, AWholeTextHasItsCountsAndTimes) {
  const auto job = Submit("Hello");
  job->ReportPrompt(std::ssize(job->request.prompt), {});
  job->ReportToken({.id = 1, .piece = " wor", .log_probs = {}});
  job->Finish(OkStatus(), Stats(5, FinishReason::kStop), "ld");
  const Json whole = Whole(CompletionKind::kText, Asking("Hello"));
  EXPECT_EQ(whole["object"], "text_completion");
  EXPECT_EQ(whole["id"], "id-1");
  EXPECT_EQ(whole["model"], "a model");
  const Json& choice = whole["choices"].at(0);
  EXPECT_EQ(choice["text"], " world");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["logprobs"], nullptr);
  EXPECT_EQ(whole["usage"], Json::parse(R"({"prompt_tokens":12,"completion_tokens":5,"total_tokens":17,
                                            "prompt_tokens_details":{"cached_tokens":2}})"));
  const Json& timings = whole["duo"]["timings"];
  EXPECT_EQ(timings["prefill_tokens_per_s"], 2.5) << "10 tokens in 4 s";
  EXPECT_EQ(timings["decode_tokens_per_s"], 2) << "4 tokens after the first in 2 s";
  EXPECT_EQ(whole["duo"]["sparsity"], 0.75);
  EXPECT_EQ(whole["duo"]["cached_tokens"], 2);
}

TEST_F(AnswerTest, NothingGeneratedHasNoSpeed) {
  const auto job = Submit("Hello");
  JobStats stats = Stats(0);
  stats.prefill_s = stats.decode_s = 0;
  job->Finish(OkStatus(), stats, "");
  const Json timings = Whole(CompletionKind::kText, Asking("Hello"))["duo"]["timings"];
  EXPECT_EQ(timings["prefill_tokens_per_s"], 0);
  EXPECT_EQ(timings["decode_tokens_per_s"], 0);
}

TEST_F(AnswerTest, EchoBeginsWithThePromptAndItsLogProbs) {
  CompletionRequest request = Asking("Hello");
  request.echo = true;
  request.n_log_probs = 1;
  const auto job = Submit("Hello");
  const std::vector<int32_t> prompt = job->request.prompt, generated = Ids(" \u00e9");
  std::vector<std::optional<LogProbs>> log_probs(prompt.size());
  for (size_t i = 1; i < prompt.size(); ++i) log_probs[i] = {.chosen = {prompt[i], -0.5}, .top = {{prompt[i], -0.5}}};
  job->ReportPrompt(std::ssize(prompt), log_probs);
  for (const int32_t id : generated) job->ReportToken({.id = id, .piece = "", .log_probs = LogProbs{{id, -1}, {}}});
  job->Finish(OkStatus(), Stats(1), "!");
  const Json choice = Whole(CompletionKind::kText, request)["choices"].at(0);
  EXPECT_EQ(choice["text"], "Hello!");
  const Json& shown = choice["logprobs"];
  EXPECT_EQ(shown["tokens"].size(), prompt.size() + generated.size());
  EXPECT_EQ(shown["token_logprobs"][0], nullptr) << "the first token has no log probability";
  EXPECT_EQ(shown["token_logprobs"].back(), -1);
  EXPECT_EQ(shown["text_offset"][0], 0);
  EXPECT_EQ(shown["text_offset"][prompt.size()], 5) << "characters of Hello";
}

TEST_F(AnswerTest, AChatIsAMessage) {
  const auto job = Submit("Hello");
  CompletionRequest request = Asking("Hello");
  request.n_log_probs = 1;
  const int32_t id = Ids(" world")[0];
  job->ReportToken({.id = id, .piece = " world", .log_probs = LogProbs{{id, -0.25}, {{id, -0.25}}}});
  job->Finish(OkStatus(), Stats(1), "");
  const Json whole = Whole(CompletionKind::kChat, request);
  EXPECT_EQ(whole["object"], "chat.completion");
  const Json& choice = whole["choices"].at(0);
  EXPECT_EQ(choice["message"], Json::parse(R"({"role":"assistant","content":" world","refusal":null})"));
  EXPECT_EQ(choice["finish_reason"], "length");
  const Json& token = choice["logprobs"]["content"].at(0);
  EXPECT_EQ(token["logprob"], -0.25);
  EXPECT_EQ(token["token"].get<std::string>().size(), token["bytes"].size());
  EXPECT_EQ(token["top_logprobs"].at(0)["token"], token["token"]);
}

TEST_F(AnswerTest, AStreamIsWhatHappenedInOrder) {
  CompletionRequest request = Asking("Hello");
  request.include_usage = true;
  const auto job = Submit("Hello");
  job->ReportPrompt(1, {});
  job->ReportToken({.id = 1, .piece = "a", .log_probs = {}});
  job->Finish(OkStatus(), Stats(2, FinishReason::kEos), "b");
  const std::vector<std::string> events = Events(CompletionKind::kChat, request);
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(Json::parse(events[0])["choices"][0]["delta"], Json::parse(R"({"role":"assistant","content":""})"));
  EXPECT_EQ(Json::parse(events[1])["choices"][0]["delta"], Json::parse(R"({"content":"ab"})"));
  EXPECT_EQ(Json::parse(events[1])["choices"][0]["finish_reason"], nullptr);
  EXPECT_EQ(Json::parse(events[2])["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(Json::parse(events[2])["usage"], nullptr);
  EXPECT_EQ(Json::parse(events[3])["usage"]["completion_tokens"], 2);
  EXPECT_TRUE(Json::parse(events[3])["choices"].empty());
  EXPECT_EQ(events[4], "[DONE]");
}

TEST_F(AnswerTest, AStreamTellsHowFarThePromptIs) {
  const auto job = Submit("Hello there, general");
  job->ReportPrompt(2, {});
  httplib::Response response;
  const auto writer = Writer(CompletionKind::kText, Asking("Hello there, general"));
  ASSERT_TRUE(writer->Stream(jobs_, &response, nullptr).ok());
  std::string all;
  httplib::DataSink sink;
  sink.write = [&](const char* bytes, size_t n) { return all.append(bytes, n), true; };
  EXPECT_TRUE(response.content_provider_(0, 0, sink));
  EXPECT_EQ(all, ": prefill 2 of " + std::to_string(job->request.prompt.size()) + "\n\n");
}

TEST_F(AnswerTest, ARequestsErrorIsItsAnswer) {
  Submit("Hello")->Finish(Status(StatusCode::kResourceExhausted, "no room"), {}, "");
  const auto other = Submit("Hello");
  httplib::Response response;
  CompletionRequest request = Asking("Hello");
  request.prompts.push_back("Hello");
  ApiStatus status = Writer(CompletionKind::kText, request)->Wait(jobs_, &response);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, "memory_exceeded");
  EXPECT_TRUE(other->cancelled()) << "the other choice is no longer needed";
  jobs_.clear();
  Submit("Hello")->Finish(Status(StatusCode::kInvalidArgument, "wrong"), {}, "");
  status = Writer(CompletionKind::kText, Asking("Hello"))->Stream(jobs_, &response, nullptr);
  ASSERT_FALSE(status.ok()) << "a stream can still fail as a whole before anything is sent";
  EXPECT_EQ(status.error().http_status, 400);
}

TEST_F(AnswerTest, TheTimeOfARequestEndsIt) {
  for (const int64_t n_generated : {0, 3}) {
    jobs_.clear();
    const auto job = Submit("Hello");
    httplib::Response response;
    std::thread scheduler([&] {
      while (!job->cancelled()) std::this_thread::yield();
      job->Finish(Status(StatusCode::kCancelled, "cancelled"), Stats(n_generated, FinishReason::kCancelled), "abc");
    });
    const ApiStatus status = Writer(CompletionKind::kText, Asking("Hello"), 1e-6)->Wait(jobs_, &response);
    scheduler.join();
    if (n_generated == 0) {
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.error().http_status, 503);
      EXPECT_EQ(status.error().code, "time_limit");
      EXPECT_GT(status.error().retry_after_s, 0);
    } else {
      ASSERT_TRUE(status.ok()) << status.error().message;
      const Json whole = Json::parse(response.body);
      EXPECT_EQ(whole["choices"][0]["text"], "abc");
      EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
      EXPECT_EQ(whole["duo"]["finish"], "time_limit");
    }
  }
}

}  // namespace
}  // namespace duo
