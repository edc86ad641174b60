#include "server/api_request.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace duo {
namespace {

std::string ParamOf(const std::string& body, CompletionKind kind = CompletionKind::kText) {
  const auto request = ParseCompletion(body, kind);
  return request.ok() ? "accepted" : request.error().param;
}

/// The request of a body that must be accepted.
CompletionRequest Accepted(const std::string& body, CompletionKind kind = CompletionKind::kText) {
  auto request = ParseCompletion(body, kind);
  EXPECT_TRUE(request.ok()) << request.error().message;
  return *std::move(request);
}

std::string With(const std::string& fields) { return R"({"prompt":"a",)" + fields + "}"; }

TEST(ApiRequest, DefaultsAreOpenAis) {
  const CompletionRequest request = Accepted(R"({"prompt":"hello"})");
  EXPECT_EQ(std::get<std::string>(request.prompts.at(0)), "hello");
  EXPECT_EQ(request.generate.sampler.temperature, 1);
  EXPECT_EQ(request.generate.sampler.top_p, 1);
  EXPECT_FALSE(request.max_tokens.has_value());
  EXPECT_FALSE(request.stream || request.echo || request.has_seed || request.include_usage);
  EXPECT_EQ(request.n_log_probs, -1);
  EXPECT_EQ(request.spec, CacheSpec());
  EXPECT_TRUE(request.reuse);
}

TEST(ApiRequest, CachePromptMayBeFalse) {
  for (const CompletionKind kind : {CompletionKind::kText, CompletionKind::kChat}) {
    const CompletionRequest request =
        Accepted(kind == CompletionKind::kText ? R"({"prompt":"a","cache_prompt":false})"
                                               : R"({"messages":[{"role":"user","content":"a"}],"cache_prompt":false})",
                 kind);
    EXPECT_FALSE(request.reuse);
  }
  EXPECT_EQ(ParamOf(With(R"("cache_prompt":1)")), "cache_prompt");
}

TEST(ApiRequest, EveryFieldIsRead) {
  const CompletionRequest request = Accepted(
      R"({"model":"m","prompt":[[1,2],"b"],"max_tokens":3,"temperature":0.5,"top_p":0.25,"stop":["x","y"],"seed":-1,
          "logprobs":2,"echo":true,"stream":true,"stream_options":{"include_usage":true},"logit_bias":{"5":-100},
          "frequency_penalty":1.5,"presence_penalty":-1,"n":1,"best_of":1,"suffix":null,"user":"u",
          "duo":{"sparsity":0.75,"pattern":"p","sink":1,"recent":2,"top_k":3,"min_p":0.5,"repetition_penalty":1.5,
                 "ignore_eos":true}})");
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(std::get<std::vector<int32_t>>(request.prompts.at(0)), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(request.max_tokens, 3);
  const SamplerOptions& s = request.generate.sampler;
  EXPECT_EQ(s.temperature, 0.5);
  EXPECT_EQ(s.top_p, 0.25);
  EXPECT_EQ(s.seed, ~uint64_t{0});
  EXPECT_TRUE(request.has_seed);
  EXPECT_EQ(s.top_k, 3);
  EXPECT_EQ(s.min_p, 0.5);
  EXPECT_EQ(s.repetition_penalty, 1.5);
  EXPECT_EQ(s.frequency_penalty, 1.5);
  EXPECT_EQ(s.presence_penalty, -1);
  ASSERT_EQ(s.bias.size(), 1u);
  EXPECT_EQ(s.bias[0], (std::pair<int32_t, float>(5, -100.0f)));
  EXPECT_EQ(request.generate.stop, (std::vector<std::string>{"x", "y"}));
  EXPECT_TRUE(request.generate.ignore_eos && request.echo && request.stream && request.include_usage);
  EXPECT_EQ(request.n_log_probs, 2);
  EXPECT_EQ(request.spec,
            (CacheSpec{.pattern = "p", .sparsity = 0.75, .sink = 1, .recent = 2, .pinned_prefix = 0, .salt = ""}));
}

TEST(ApiRequest, ATopPOfNothingLeavesTheMostLikelyToken) {
  EXPECT_EQ(Accepted(With(R"("top_p":0)")).generate.sampler.top_k, 1);
}

TEST(ApiRequest, WhatIsWrongIsNamed) {
  EXPECT_EQ(ParamOf("{"), "body");
  EXPECT_EQ(ParamOf("[]"), "body");
  EXPECT_EQ(ParamOf(""), "body");
  EXPECT_EQ(ParamOf("{}"), "prompt");
  EXPECT_EQ(ParamOf(R"({"prompt":[]})"), "prompt");
  EXPECT_EQ(ParamOf(R"({"prompt":[-1]})"), "prompt");
  EXPECT_EQ(ParamOf(R"({"prompt":[1.5]})"), "prompt");
  EXPECT_EQ(ParamOf(R"({"prompt":[99999999999]})"), "prompt");
  EXPECT_EQ(ParamOf(R"({"prompt":[{}]})"), "prompt");
  EXPECT_EQ(ParamOf(With(R"("temperature":"hot")")), "temperature");
  EXPECT_EQ(ParamOf(With(R"("temperature":101)")), "temperature");
  EXPECT_EQ(ParamOf(With(R"("top_p":1.5)")), "top_p");
  EXPECT_EQ(ParamOf(With(R"("duo":{"min_p":1.5})")), "duo.min_p");
  EXPECT_EQ(ParamOf(With(R"("duo":{"min_p":-0.5})")), "duo.min_p");
  EXPECT_EQ(ParamOf(With(R"("max_tokens":-1)")), "max_tokens");
  EXPECT_EQ(ParamOf(With(R"("max_tokens":1.5)")), "max_tokens");
  EXPECT_EQ(ParamOf(With(R"("max_tokens":18446744073709551615)")), "max_tokens");
  EXPECT_EQ(ParamOf(With(R"("stop":"")")), "stop");
  EXPECT_EQ(ParamOf(With(R"("stop":[1])")), "stop");
  EXPECT_EQ(ParamOf(With(R"("n":2)")), "n");
  EXPECT_EQ(ParamOf(With(R"("best_of":3)")), "best_of");
  EXPECT_EQ(ParamOf(With(R"("suffix":"s")")), "suffix");
  EXPECT_EQ(ParamOf(With(R"("logprobs":21)")), "logprobs");
  EXPECT_EQ(ParamOf(With(R"("logprobs":true)")), "logprobs");
  EXPECT_EQ(ParamOf(With(R"("logit_bias":{"x":1})")), "logit_bias");
  EXPECT_EQ(ParamOf(With(R"("logit_bias":{"1":101})")), "logit_bias");
  EXPECT_EQ(ParamOf(With(R"("logit_bias":{"-1":1})")), "logit_bias");
  EXPECT_EQ(ParamOf(With(R"("stream_options":{})")), "stream_options");
  EXPECT_EQ(ParamOf(With(R"("stream":true,"stream_options":{"x":1})")), "stream_options.x");
  EXPECT_EQ(ParamOf(With(R"("messages":[])")), "messages") << "only for chats";
  EXPECT_EQ(ParamOf(With(R"("top_k":5)")), "top_k") << "belongs under duo";
  EXPECT_EQ(ParamOf(With(R"("duo":5)")), "duo");
  EXPECT_EQ(ParamOf(With(R"("duo":{"sparsity":2})")), "duo.sparsity");
  EXPECT_EQ(ParamOf(With(R"("duo":{"recent":0})")), "duo.recent");
  EXPECT_EQ(ParamOf(With(R"("duo":{"cache":"../x"})")), "duo.cache");
  EXPECT_EQ(ParamOf(With(R"("duo":{"cache":""})")), "duo.cache");
  EXPECT_EQ(ParamOf(With(R"("duo":{"pin_system_prompt":true})")), "duo.pin_system_prompt") << "only for chats";
  EXPECT_EQ(ParamOf(R"({"prompt":["a","b"],"duo":{"cache":"x"}})"), "duo.cache");
  EXPECT_EQ(ParamOf(std::string("{\"prompt\":\"\xff\"}")), "body");
  EXPECT_EQ(ParamOf(std::string(100000, '[')), "body");
}

TEST(ApiRequest, Chats) {
  const auto param = [](const std::string& body) { return ParamOf(body, CompletionKind::kChat); };
  EXPECT_EQ(param("{}"), "messages");
  EXPECT_EQ(param(R"({"messages":[]})"), "messages");
  EXPECT_EQ(param(R"({"messages":["a"]})"), "messages[0]");
  EXPECT_EQ(param(R"({"messages":[{"role":"user","content":"a"},{"role":"cat","content":"b"}]})"), "messages[1].role");
  EXPECT_EQ(param(R"({"messages":[{"role":"user"}]})"), "messages[0].content");
  EXPECT_EQ(param(R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})"), "messages[0].content[0].type");
  const std::string one = R"("messages":[{"role":"user","content":"a"}])";
  EXPECT_EQ(param("{" + one + R"(,"tools":[{}]})"), "tools");
  EXPECT_EQ(param("{" + one + R"(,"top_logprobs":2})"), "top_logprobs");
  EXPECT_EQ(param("{" + one + R"(,"response_format":{"type":"json_object"}})"), "response_format");
  EXPECT_EQ(param("{" + one + R"(,"prompt":"a"})"), "prompt");
  const CompletionRequest request = Accepted(
      R"({"messages":[{"role":"developer","content":"s"},{"role":"user","content":[{"type":"text","text":"a"},
          {"type":"text","text":"b"}]},{"role":"assistant","content":"c"}],"max_completion_tokens":7,"logprobs":true,
          "response_format":{"type":"text"},"tools":[],"duo":{"pin_system_prompt":true,"cache":"t.1_a-b"}})",
      CompletionKind::kChat);
  ASSERT_EQ(request.messages.size(), 3u);
  EXPECT_EQ(request.messages[0].role, ChatMessage::Role::kSystem);
  EXPECT_EQ(request.messages[1].text, "ab");
  EXPECT_EQ(request.messages[2].role, ChatMessage::Role::kAssistant);
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_EQ(request.n_log_probs, 0);
  EXPECT_TRUE(request.pin_system_prompt);
  EXPECT_EQ(request.cache, "t.1_a-b");
}

TEST(ApiRequest, NothingInsideAMessageIsDroppedInSilence) {
  const auto param = [](const std::string& members) {
    return ParamOf(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant",)" + members + "}]}",
                   CompletionKind::kChat);
  };
  for (const std::string member :
       {R"("tool_calls":[{"id":"1"}])", R"("name":"anna")", R"("prefix":true)",
        R"("cache_control":{"type":"ephemeral"})", R"("refusal":"no")", R"("function_call":{"name":"f"})",
        R"("audio":{"id":"x"})", R"("annotations":[{}])", R"("tool_call_id":"1")", R"("bogus":null)"}) {
    const std::string name = member.substr(1, member.find('"', 1) - 1);
    EXPECT_EQ(param(R"("content":"b",)" + member), "messages[1]." + name);
    EXPECT_EQ(param(member + R"(,"content":"b")"), "messages[1]." + name);
  }
  EXPECT_EQ(param(R"("content":"b","refusal":null,"tool_calls":null,"function_call":null,"audio":null,"annotations":[],
                     "name":null,"tool_call_id":null)"),
            "accepted")
      << "an answer that is sent back unchanged";
  EXPECT_EQ(param(R"("content":null)"), "messages[1].content");
  EXPECT_EQ(param(R"("content":5)"), "messages[1].content");
  EXPECT_EQ(param(R"("content":["a"])"), "messages[1].content[0]");
  EXPECT_EQ(param(R"("content":[{"type":"text","text":"a"},{"type":"text","text":"b","cache_control":{}}])"),
            "messages[1].content[1].cache_control");
  EXPECT_EQ(param(R"("content":[{"type":"text"}])"), "messages[1].content[0].text");
  EXPECT_EQ(param(R"("content":[{"type":"text","text":5}])"), "messages[1].content[0].text");
  const auto tokenize = ParseTokenize(R"({"messages":[{"role":"user","content":"a","name":"b"}]})");
  ASSERT_FALSE(tokenize.ok());
  EXPECT_EQ(tokenize.error().param, "messages[0].name");
}

TEST(ApiRequest, WholeNumbersMayHaveAPoint) {
  const CompletionRequest request =
      Accepted(R"({"prompt":[[1.0,2]],"max_tokens":3.0,"n":1.0,"best_of":1.0,"seed":-2.0,"duo":{"sink":4.0}})");
  EXPECT_EQ(std::get<std::vector<int32_t>>(request.prompts.at(0)), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(request.max_tokens, 3);
  EXPECT_EQ(request.generate.sampler.seed, static_cast<uint64_t>(-2));
  EXPECT_EQ(request.spec.sink, 4);
  EXPECT_EQ(ParamOf(With(R"("max_tokens":1e300)")), "max_tokens");
  EXPECT_EQ(ParamOf(With(R"("seed":1e17)")), "seed") << "a double cannot hold all integers of this size";
  EXPECT_EQ(ParamOf(With(R"("n":1.5)")), "n");
  EXPECT_EQ(ParamOf(R"({"prompt":[-1.0]})"), "prompt");
}

TEST(ApiRequest, SaltsAreShortTexts) {
  for (const CompletionKind kind : {CompletionKind::kText, CompletionKind::kChat}) {
    const std::string begin =
        kind == CompletionKind::kText ? R"({"prompt":"a",)" : R"({"messages":[{"role":"user","content":"a"}],)";
    const std::string longest(kMaxSaltBytes, 's');
    EXPECT_EQ(Accepted(begin + R"("cache_salt":")" + longest + "\"}", kind).spec.salt, longest);
    for (const std::string& wrong : {std::string(R"("")"), std::string("5"), '"' + std::string(257, 's') + '"'}) {
      EXPECT_EQ(ParamOf(begin + R"("cache_salt":)" + wrong + "}", kind), "cache_salt") << wrong;
    }
  }
  EXPECT_EQ(ParamOf(With(R"("duo":{"cache_salt":"s"})")), "duo.cache_salt") << "like in vLLM it belongs at the top";
}

TEST(ApiRequest, SessionNamesCannotLeaveTheirFolder) {
  for (const char* good : {"a", "tale", "A.b_c-9", "0"}) EXPECT_TRUE(IsSessionName(good)) << good;
  EXPECT_TRUE(IsSessionName(std::string(64, 'x')));
  for (const char* bad : {"", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a b", "a\n", "\xc3\xa4", "a%2e", "~a"}) {
    EXPECT_FALSE(IsSessionName(bad)) << bad;
  }
  EXPECT_FALSE(IsSessionName(std::string(65, 'x')));
  EXPECT_FALSE(IsSessionName(std::string_view("a\0b", 3)));
}

TEST(ApiRequest, TokensAndTexts) {
  const auto tokenize = ParseTokenize(R"({"prompt":"a","add_special":false,"count_only":true})");
  ASSERT_TRUE(tokenize.ok());
  EXPECT_EQ(tokenize->text, "a");
  EXPECT_FALSE(tokenize->add_special);
  EXPECT_TRUE(tokenize->count_only);
  EXPECT_FALSE(ParseTokenize("{}").ok());
  EXPECT_FALSE(ParseTokenize(R"({"content":"a","messages":[{"role":"user","content":"b"}]})").ok());
  const auto tokens = ParseDetokenize(R"({"tokens":[3,4]})");
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(*tokens, (std::vector<int32_t>{3, 4}));
  EXPECT_FALSE(ParseDetokenize(R"({"tokens":["a"]})").ok());
  EXPECT_TRUE(ParseDetokenize(R"({"tokens":[]})")->empty());
}

}  // namespace
}  // namespace duo
