#include "server/api_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "base/json.h"
#include "server/request_fields.h"
#include "server/request_json.h"

namespace duo {
namespace {

constexpr size_t kMaxMessages = 10000;
constexpr size_t kMaxBiases = 1024;

/// Reads an array of token ids, which may be empty.
std::optional<std::vector<int32_t>> ReadTokens(const Json& list) {
  if (IsPackedIds(list)) return UnpackIds(list);
  if (!list.is_array()) return std::nullopt;
  std::vector<int32_t> tokens;
  for (const Json& id : list) {  // not packed: empty, or with ids written as 3.0
    const std::optional<int64_t> number = WholeNumber(id);
    if (!number || *number < 0 || *number > INT32_MAX) return std::nullopt;
    tokens.push_back(*number);
  }
  return tokens;
}

void ReadPrompts(RequestFields* fields, std::vector<Prompt>* prompts) {
  const Json* value = fields->Get("prompt");
  constexpr const char* kExpected = "a text, token ids, or up to 64 of either";
  if (value == nullptr) return fields->Refuse("prompt", std::string("missing; expected ") + kExpected);
  if (value->is_string()) return prompts->emplace_back(value->get<std::string>()), void();
  if (IsPackedIds(*value)) return prompts->emplace_back(UnpackIds(*value)), void();
  if (!value->is_array() || value->empty()) return fields->Refuse("prompt", RequestFields::Expected(kExpected, *value));
  if (value->front().is_number()) return fields->Refuse("prompt", "expected token ids, 0 or more");
  if (value->size() > kMaxPrompts) {
    return fields->Refuse("prompt", fmt::format("{} prompts, at most {} are allowed", value->size(), kMaxPrompts));
  }
  for (const Json& one : *value) {
    if (one.is_string()) {
      prompts->emplace_back(one.get<std::string>());
    } else if (auto tokens = ReadTokens(one)) {
      prompts->emplace_back(*std::move(tokens));
    } else {
      return fields->Refuse("prompt", RequestFields::Expected(kExpected, one));
    }
  }
}

/// Reads a text, or an array of {"type":"text","text":...}. The error gives the path of the first part that is
/// something else or has other members.
ApiResult<std::string> ReadContent(const Json& content, const std::string& where) {
  constexpr const char* kExpected = R"(a text, or an array of {"type": "text", "text": ...})";
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return BadField(where, RequestFields::Expected(kExpected, content));
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    RequestFields part(content[i], fmt::format("{}[{}]", where, i));
    if (part.Text("type").value_or("") != "text")
      part.Refuse("type", "this server accepts only parts of the type \"text\"");
    const std::optional<std::string> piece = part.Text("text");
    if (!piece) part.Refuse("text", "missing; expected a string");
    DUO_RETURN_IF_API_ERROR(part.Finish());
    text += *piece;
  }
  return text;
}

/// Refuses members of OpenAI's messages that this server's templates cannot express. Values without effect are
/// accepted, because clients send an answer back as they received it.
void RefuseWhatSaysSomething(RequestFields* message) {
  message->Only("name", "", "this server's chat templates have no place for names");
  message->Only("tool_calls", Json::array(), "this server does not call tools");
  message->Only("function_call", nullptr, "this server does not call functions");
  message->Only("tool_call_id", "", "this server does not call tools");
  message->Only("refusal", "", "this server's chat templates have no place for refusals");
  message->Only("audio", nullptr, "this server accepts only text");
  message->Only("annotations", Json::array(), "this server's chat templates have no place for annotations");
}

ApiResult<ChatMessage> ReadMessage(const Json& message, const std::string& where) {
  ChatMessage read;
  RequestFields fields(message, where);
  const Json* role = fields.Get("role");
  const std::string who = role == nullptr || !role->is_string() ? "" : role->get<std::string>();
  if (who == "system" || who == "developer") {
    read.role = ChatMessage::Role::kSystem;
  } else if (who == "user") {
    read.role = ChatMessage::Role::kUser;
  } else if (who == "assistant") {
    read.role = ChatMessage::Role::kAssistant;
  } else {
    fields.Refuse("role", "expected system, developer, user or assistant");
  }
  RefuseWhatSaysSomething(&fields);
  const Json* content = fields.Get("content");
  if (content == nullptr) fields.Refuse("content", "missing; expected a text, or an array of parts");
  DUO_RETURN_IF_API_ERROR(fields.Finish());
  ApiResult<std::string> text = ReadContent(*content, where + ".content");
  if (!text.ok()) return text.error();
  read.text = *std::move(text);
  return read;
}

void ReadMessages(RequestFields* fields, std::vector<ChatMessage>* messages) {
  const Json* value = fields->Get("messages");
  if (value == nullptr) return fields->Refuse("messages", "missing; expected an array of messages");
  if (IsPackedIds(*value)) return fields->Refuse("messages[0]", "expected an object, found number");
  if (!value->is_array() || value->empty() || value->size() > kMaxMessages) {
    return fields->Refuse("messages", fmt::format("expected an array of 1..{} messages", kMaxMessages));
  }
  for (size_t i = 0; i < value->size(); ++i) {
    ApiResult<ChatMessage> read = ReadMessage((*value)[i], fmt::format("messages[{}]", i));
    if (!read.ok()) return fields->Pass(read.error());
    messages->push_back(*std::move(read));
  }
}

void ReadStops(RequestFields* fields, std::vector<std::string>* stops) {
  const Json* value = fields->Get("stop");
  if (value == nullptr) return;
  const Json list = value->is_array() ? *value : Json::array({*value});
  if (list.size() > kMaxStops) return fields->Refuse("stop", fmt::format("expected at most {} texts", kMaxStops));
  for (const Json& stop : list) {
    if (!stop.is_string() || stop.get<std::string>().empty()) {
      return fields->Refuse("stop", "expected a text that is not empty, or an array of such texts");
    }
    stops->push_back(stop.get<std::string>());
  }
}

void ReadBias(RequestFields* fields, SamplerOptions* sampler) {
  const Json* value = fields->Get("logit_bias");
  if (value == nullptr) return;
  if (!value->is_object() || value->size() > kMaxBiases) {
    return fields->Refuse("logit_bias", fmt::format("expected an object of at most {} tokens", kMaxBiases));
  }
  for (const auto& item : value->items()) {
    int32_t id = -1;
    const std::string& key = item.key();
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    const bool whole = parsed.ec == std::errc() && parsed.ptr == key.data() + key.size() && id >= 0;
    if (!whole || !item.value().is_number() || !(std::fabs(item.value().get<double>()) <= 100)) {
      return fields->Refuse("logit_bias", "expected {\"token id\": -100..100}");
    }
    sampler->bias.emplace_back(id, item.value().get<float>());
  }
}

void ReadSampling(RequestFields* fields, CompletionRequest* request) {
  SamplerOptions& sampler = request->generate.sampler;
  sampler.temperature = fields->Real("temperature", 0, 100).value_or(1);
  sampler.top_p = fields->Real("top_p", 0, 1).value_or(1);
  if (sampler.top_p == 0) sampler.top_k = 1;  // only the most likely token is left
  sampler.top_p = std::max(sampler.top_p, 1e-9);
  sampler.frequency_penalty = fields->Real("frequency_penalty", -2, 2).value_or(0);
  sampler.presence_penalty = fields->Real("presence_penalty", -2, 2).value_or(0);
  if (const auto seed = fields->Int("seed", INT64_MIN, INT64_MAX)) {
    sampler.seed = *seed;
    request->has_seed = true;
  }
  ReadBias(fields, &sampler);
  ReadStops(fields, &request->generate.stop);
}

ApiStatus ReadDuo(RequestFields* outer, CompletionKind kind, CompletionRequest* request) {
  const Json* value = outer->Get("duo");
  if (value == nullptr) return ApiOk();
  RequestFields fields(*value, "duo");
  SamplerOptions& sampler = request->generate.sampler;
  request->spec.pattern = fields.Text("pattern").value_or("");
  request->spec.sparsity = fields.Real("sparsity", 0, 1);
  request->spec.sink = fields.Int("sink", 0, int64_t{1} << 30);
  request->spec.recent = fields.Int("recent", 1, int64_t{1} << 30);
  if (kind == CompletionKind::kChat) request->pin_system_prompt = fields.Bool("pin_system_prompt", false);
  if (const auto top_k = fields.Int("top_k", 0, INT32_MAX)) sampler.top_k = *top_k;
  sampler.min_p = fields.Real("min_p", 0, 1).value_or(0);
  sampler.repetition_penalty = fields.Real("repetition_penalty", 0.01, 100).value_or(1);
  request->generate.ignore_eos = fields.Bool("ignore_eos", false);
  if (const auto name = fields.Text("cache")) {
    request->cache = *name;
    if (!IsSessionName(*name)) {
      fields.Refuse("cache", "expected 1..64 letters, digits, '.', '_' or '-', not beginning with a dot");
    }
  }
  return fields.Finish();
}

void ReadLogProbs(RequestFields* fields, CompletionKind kind, CompletionRequest* request) {
  if (kind == CompletionKind::kText) {
    if (const auto n = fields->Int("logprobs", 0, kMaxLogProbs)) request->n_log_probs = *n;
    return;
  }
  const bool wanted = fields->Bool("logprobs", false);
  const auto top = fields->Int("top_logprobs", 0, kMaxLogProbs);
  if (top && !wanted) return fields->Refuse("top_logprobs", "needs \"logprobs\": true");
  if (wanted) request->n_log_probs = top.value_or(0);
}

void ReadStream(RequestFields* fields, CompletionRequest* request) {
  request->stream = fields->Bool("stream", false);
  const Json* options = fields->Get("stream_options");
  if (options == nullptr) return;
  if (!request->stream) return fields->Refuse("stream_options", "needs \"stream\": true");
  RequestFields inner(*options, "stream_options");
  request->include_usage = inner.Bool("include_usage", false);
  inner.Get("include_obfuscation");  // padding against eavesdroppers, which this server does not send
  fields->Pass(inner.Finish());
}

void ReadSalt(RequestFields* fields, CacheSpec* spec) {
  const std::optional<std::string> salt = fields->Text("cache_salt");
  if (!salt) return;
  if (salt->empty() || salt->size() > kMaxSaltBytes) {
    return fields->Refuse("cache_salt", fmt::format("expected 1..{} bytes, found {}", kMaxSaltBytes, salt->size()));
  }
  spec->salt = *salt;
}

}  // namespace

bool IsSessionName(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  return !name.empty() && name.size() <= 64 && name[0] != '.' && std::all_of(name.begin(), name.end(), plain);
}

ApiResult<CompletionRequest> ParseCompletion(std::string_view body, CompletionKind kind) {
  const Result<Json> json = ParseRequestJson(body);
  if (!json.ok()) return BadField("body", json.status().message());
  RequestFields fields(*json, "");
  CompletionRequest request;
  request.model = fields.Text("model").value_or("");
  ReadSampling(&fields, &request);
  ReadLogProbs(&fields, kind, &request);
  ReadStream(&fields, &request);
  ReadSalt(&fields, &request.spec);
  constexpr int64_t kMaxTokens = int64_t{1} << 36;
  request.max_tokens = fields.Int("max_tokens", 0, kMaxTokens);
  request.reuse = fields.Bool("cache_prompt", true);
  if (kind == CompletionKind::kText) {
    ReadPrompts(&fields, &request.prompts);
    request.echo = fields.Bool("echo", false);
    fields.Only("suffix", "", "this server continues only the end of a text");
    fields.Only("best_of", 1, "this server makes one choice per prompt");
  } else {
    ReadMessages(&fields, &request.messages);
    if (const auto n = fields.Int("max_completion_tokens", 1, kMaxTokens)) request.max_tokens = n;
    const Json text = {{"type", "text"}};
    fields.Only("response_format", text, "this server answers only in plain text");
    fields.Only("tools", Json::array(), "this server does not call tools");
    fields.Only("functions", Json::array(), "this server does not call functions");
    fields.Only("tool_choice", "none", "this server does not call tools");
    fields.Get("parallel_tool_calls");
    fields.Only("modalities", Json::array({"text"}), "this server answers only in text");
    fields.Get("reasoning_effort");
  }
  fields.Only("n", 1, "this server makes one choice per prompt");
  for (const char* ignored : {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}) {
    fields.Get(ignored);
  }
  DUO_RETURN_IF_API_ERROR(ReadDuo(&fields, kind, &request));
  DUO_RETURN_IF_API_ERROR(fields.Finish());
  if (!request.cache.empty() && request.prompts.size() > 1) {
    return BadField("duo.cache", "a request with a session takes one prompt");
  }
  return request;
}

ApiResult<TokenizeRequest> ParseTokenize(std::string_view body) {
  const Result<Json> json = ParseRequestJson(body);
  if (!json.ok()) return BadField("body", json.status().message());
  RequestFields fields(*json, "");
  TokenizeRequest request;
  request.text = fields.Text("content");
  if (const auto prompt = fields.Text("prompt")) request.text = prompt;
  request.add_special = fields.Bool("add_special_tokens", fields.Bool("add_special", true));
  request.count_only = fields.Bool("count_only", false);
  fields.Get("model");
  if (fields.Get("messages") != nullptr) ReadMessages(&fields, &request.messages);
  if (request.text.has_value() == !request.messages.empty()) {
    fields.Refuse("content", "expected one of content, prompt and messages");
  }
  DUO_RETURN_IF_API_ERROR(fields.Finish());
  return request;
}

ApiResult<std::vector<int32_t>> ParseDetokenize(std::string_view body) {
  const Result<Json> json = ParseRequestJson(body);
  if (!json.ok()) return BadField("body", json.status().message());
  RequestFields fields(*json, "");
  fields.Get("model");
  const Json* list = fields.Get("tokens");
  auto tokens = list == nullptr ? std::nullopt : ReadTokens(*list);
  if (!tokens) fields.Refuse("tokens", "expected an array of token ids");
  DUO_RETURN_IF_API_ERROR(fields.Finish());
  return *std::move(tokens);
}

}  // namespace duo
