#include "server/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/clock.h"
#include "server/http_server.h"
#include "text/tokenizer_impl.h"

namespace duo {
namespace {

// A waiting handler checks this often whether its client is still connected.
constexpr double kLookSeconds = 0.1;
// A stream without news sends a comment this often, so that neither side takes the connection for dead.
constexpr double kSilentSeconds = 2;
constexpr int kRetrySeconds = 2;

int64_t CountCharacters(const std::string& utf8) {
  return std::count_if(utf8.begin(), utf8.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; });
}

double PerSecond(int64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; }

}  // namespace

AnswerWriter::AnswerWriter(CompletionKind kind, CompletionRequest request, std::string id, std::string model,
                           const Tokenizer* tokenizer, double max_seconds)
    : kind_(kind),
      request_(std::move(request)),
      id_(std::move(id)),
      model_(std::move(model)),
      tokenizer_(tokenizer),
      created_(static_cast<int64_t>(std::time(nullptr))),
      max_seconds_(max_seconds) {
  const std::vector<int32_t> ids = tokenizer->Encode("a", SpecialTokens::kNone);
  if (ids.empty()) return;
  before_ = ids.back();
  before_text_ = tokenizer->Decode({before_}, SpecialTokens::kAdd);
}

// The token's text after other text: some tokenizers drop a blank at the beginning of a text.
std::string AnswerWriter::TokenText(int32_t id) const {
  const std::string both = tokenizer_->Decode({before_, id}, SpecialTokens::kAdd);
  return before_ >= 0 && both.compare(0, before_text_.size(), before_text_) == 0
             ? both.substr(before_text_.size())
             : tokenizer_->Decode({id}, SpecialTokens::kAdd);
}

Json AnswerWriter::EmptyLogProbs() const {
  if (request_.n_log_probs < 0) return nullptr;
  if (kind_ == CompletionKind::kChat) return {{"content", Json::array()}, {"refusal", nullptr}};
  return {{"tokens", Json::array()},
          {"token_logprobs", Json::array()},
          {"top_logprobs", Json::array()},
          {"text_offset", Json::array()}};
}

// A prompt sent as text is echoed unchanged: with the special tokens written in it, without those that the tokenizer
// adds around it. A prompt sent as ids is decoded without special tokens.
AnswerWriter::Shown AnswerWriter::ShownInEcho(const Choice& choice, size_t index) const {
  const std::vector<int32_t>& prompt = choice.job->request.prompt;
  const Prompt& given = request_.prompts[static_cast<size_t>(&choice - choices_.data())];
  if (!std::holds_alternative<std::string>(given)) {
    return tokenizer_->IsSpecial(prompt[index]) ? Shown::kNo : Shown::kYes;
  }
  const Tokenizer::Impl& impl = Tokenizer::Impl::Of(*tokenizer_);
  const bool around = index < impl.prefix().size() || index + impl.suffix().size() >= prompt.size();
  return around ? Shown::kNo : Shown::kYes;
}

void AnswerWriter::AddLogProbs(Choice* choice, int32_t id, Shown shown, const std::optional<LogProbs>& log_probs,
                               Json* to) {
  const std::string token_text = TokenText(id);
  if (kind_ == CompletionKind::kChat) {
    const auto entry = [&](const std::string& text, double log_prob) -> Json {
      Json bytes = Json::array();
      for (const char c : text) bytes.push_back(static_cast<uint8_t>(c));
      return {{"token", text}, {"logprob", log_prob}, {"bytes", std::move(bytes)}};
    };
    if (!log_probs) return;
    Json token = entry(token_text, log_probs->chosen.log_prob);
    token["top_logprobs"] = Json::array();
    for (const TokenLogProb& other : log_probs->top) {
      token["top_logprobs"].push_back(entry(TokenText(other.id), other.log_prob));
    }
    (*to)["content"].push_back(std::move(token));
    return;
  }
  (*to)["tokens"].push_back(token_text);
  (*to)["text_offset"].push_back(choice->n_characters);
  if (shown == Shown::kYes) choice->n_characters += CountCharacters(token_text);
  if (!log_probs) {
    (*to)["token_logprobs"].push_back(nullptr);
    (*to)["top_logprobs"].push_back(nullptr);
    return;
  }
  (*to)["token_logprobs"].push_back(log_probs->chosen.log_prob);
  Json top = Json::object();
  for (const TokenLogProb& other : log_probs->top) {
    // Different tokens may have the same text (parts of characters): keep the likelier one.
    const std::string text = TokenText(other.id);
    if (!top.contains(text)) top[text] = other.log_prob;
  }
  (*to)["top_logprobs"].push_back(std::move(top));
}

std::string AnswerWriter::Update(Choice* choice, const Job::News& news, Json* new_log_probs) {
  std::string text;
  *new_log_probs = EmptyLogProbs();
  const std::vector<int32_t>& prompt = choice->job->request.prompt;
  const bool first =
      !choice->begun && (news.prompt_done == static_cast<int64_t>(prompt.size()) || !news.tokens.empty());
  if (first) {
    choice->begun = true;
    if (request_.echo) {
      const Prompt& own = request_.prompts[static_cast<size_t>(choice - choices_.data())];
      const auto* given = std::get_if<std::string>(&own);
      text = given != nullptr ? *given : tokenizer_->Decode(prompt, SpecialTokens::kNone);
    }
  }
  for (const auto& entry : news.prompt_log_probs) {
    const auto index = static_cast<size_t>(choice->n_prompt_log_probs++);
    AddLogProbs(choice, prompt[index], ShownInEcho(*choice, index), entry, new_log_probs);
  }
  for (const JobToken& token : news.tokens) {
    text += token.piece;
    const Shown shown = tokenizer_->IsSpecial(token.id) ? Shown::kNo : Shown::kYes;
    if (token.log_probs) AddLogProbs(choice, token.id, shown, token.log_probs, new_log_probs);
  }
  if (news.finished && !choice->done) {
    text += news.rest;
    choice->done = true;
    choice->stats = news.stats;
    choice->status = news.status;
    choice->out_of_time = time_is_over_ && news.status.code() == StatusCode::kCancelled;
    if (choice->out_of_time && news.stats.n_generated > 0) choice->status = OkStatus();
  }
  choice->text += text;
  return text;
}

const char* AnswerWriter::FinishName(const Choice& choice) {
  if (choice.out_of_time) return "length";
  const bool stop = choice.stats.finish == FinishReason::kEos || choice.stats.finish == FinishReason::kStop;
  return stop ? "stop" : "length";
}

Json AnswerWriter::Head(const char* object) const {
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_}};
}

Json AnswerWriter::Usage() const {
  int64_t prompt = 0, completion = 0, cached = 0;
  for (const Choice& choice : choices_) {
    prompt += choice.stats.n_prompt;
    completion += choice.stats.n_generated;
    cached += choice.stats.n_cached;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

Json AnswerWriter::DuoJson(const Choice& choice) const {
  const JobStats& s = choice.stats;
  return {{"timings",
           {{"queue_s", s.queue_s},
            {"prefill_s", s.prefill_s},
            {"first_token_s", s.first_token_s},
            {"decode_s", s.decode_s},
            {"prefill_tokens_per_s", PerSecond(s.n_prompt - s.n_cached, s.prefill_s)},
            {"decode_tokens_per_s", PerSecond(std::max<int64_t>(s.n_generated - 1, 0), s.decode_s)}}},
          {"cached_tokens", s.n_cached},
          {"kv_bytes", s.kv_bytes},
          {"sparsity", SparsityOf(choice.job->request.session.heads)},
          {"finish", choice.out_of_time ? "time_limit" : FinishReasonName(s.finish)}};
}

Json AnswerWriter::Whole() const {
  const bool chat = kind_ == CompletionKind::kChat;
  Json whole = Head(chat ? "chat.completion" : "text_completion");
  whole["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    Json one = {{"index", i}, {"finish_reason", FinishName(choice)}, {"logprobs", choice.log_probs}};
    if (chat) {
      one["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      one["text"] = choice.text;
    }
    whole["choices"].push_back(std::move(one));
  }
  whole["usage"] = Usage();
  whole["duo"] = DuoJson(choices_.front());
  return whole;
}

void AnswerWriter::Begin(Jobs jobs) {
  for (auto& job : jobs) {
    choices_.emplace_back();
    choices_.back().job = std::move(job);
    choices_.back().log_probs = EmptyLogProbs();
  }
}

std::optional<ApiError> AnswerWriter::Wait(Jobs jobs, httplib::Response* response) {
  Begin(std::move(jobs));
  for (Choice& choice : choices_) {
    while (!choice.done) {
      Json log_probs;
      Update(&choice, choice.job->Take(kLookSeconds), &log_probs);
      for (const auto& item : log_probs.items()) {
        if (item.value().is_array()) {
          for (Json& entry : item.value()) choice.log_probs[item.key()].push_back(std::move(entry));
        }
      }
      if (HttpServer::ClientGone()) CancelAll();
      CheckTime();
    }
    if (!choice.status.ok()) {
      CancelAll();
      return ErrorOf(choice);
    }
  }
  response->set_content(JsonText(Whole()), "application/json");
  return std::nullopt;
}

void AnswerWriter::CancelAll() {
  for (const Choice& choice : choices_) choice.job->Cancel();
}

void AnswerWriter::CheckTime() {
  if (time_is_over_ || max_seconds_ <= 0 || SecondsSince(begun_) < max_seconds_) return;
  time_is_over_ = true;
  CancelAll();
}

ApiError AnswerWriter::ErrorOf(const Choice& choice) const {
  if (!choice.out_of_time) return FromStatus(choice.status);
  ApiError error = PlainError(503, fmt::format("no token was generated within the {:g} s that this server allows a "
                                               "request; the part of the prompt that was read is kept for a retry",
                                               max_seconds_));
  error.code = "time_limit";
  error.retry_after_s = kRetrySeconds;
  return error;
}

Json AnswerWriter::Chunk(size_t index, Json content, const char* finish) const {
  const bool chat = kind_ == CompletionKind::kChat;
  Json chunk = Head(chat ? "chat.completion.chunk" : "text_completion");
  content["index"] = index;
  content["finish_reason"] = finish == nullptr ? Json(nullptr) : Json(finish);
  if (!content.contains("logprobs")) content["logprobs"] = nullptr;
  chunk["choices"] = Json::array({std::move(content)});
  if (request_.include_usage) chunk["usage"] = nullptr;
  return chunk;
}

bool AnswerWriter::Send(httplib::DataSink* sink, const Json& event) const {
  const std::string text = "data: " + JsonText(event) + "\n\n";
  return sink->write(text.data(), text.size());
}

bool AnswerWriter::WriteChoice(size_t index, const Job::News& news, httplib::DataSink* sink) {
  const bool chat = kind_ == CompletionKind::kChat;
  Choice& choice = choices_[index];
  const auto content = [&](const std::string& text) -> Json {
    if (chat) return {{"delta", {{"content", text}}}};
    return {{"text", text}};
  };
  const bool had_begun = choice.begun;
  Json log_probs;
  const std::string text = Update(&choice, news, &log_probs);
  if (!choice.begun && news.prompt_done != choice.n_read_shown) {
    choice.n_read_shown = news.prompt_done;
    const std::string comment = ": prefill " + std::to_string(news.prompt_done) + " of " +
                                std::to_string(choice.job->request.prompt.size()) + "\n\n";
    if (!sink->write(comment.data(), comment.size())) return false;
    silent_since_ = Clock::now();
  }
  if (chat && choice.begun && !had_begun) {
    if (!Send(sink, Chunk(index, {{"delta", {{"role", "assistant"}, {"content", ""}}}}, nullptr))) return false;
  }
  const bool has_log_probs = !log_probs.is_null() && !log_probs[chat ? "content" : "tokens"].empty();
  if (!text.empty() || has_log_probs) {
    Json part = content(text);
    if (has_log_probs) part["logprobs"] = std::move(log_probs);
    if (!Send(sink, Chunk(index, std::move(part), nullptr))) return false;
    silent_since_ = Clock::now();
  }
  if (!choice.done) return true;
  if (!choice.status.ok()) {
    CancelAll();
    Send(sink, ToJson(ErrorOf(choice)));
    sink->done();
    return false;
  }
  Json last = Chunk(index, chat ? Json{{"delta", Json::object()}} : content(""), FinishName(choice));
  last["duo"] = DuoJson(choice);
  return Send(sink, last);
}

bool AnswerWriter::WriteEnd(httplib::DataSink* sink) const {
  if (request_.include_usage) {
    Json usage = Head(kind_ == CompletionKind::kChat ? "chat.completion.chunk" : "text_completion");
    usage["choices"] = Json::array();
    usage["usage"] = Usage();
    if (!Send(sink, usage)) return false;
  }
  const std::string end = "data: [DONE]\n\n";
  if (!sink->write(end.data(), end.size())) return false;
  sink->done();
  return true;
}

bool AnswerWriter::WriteNews(httplib::DataSink* sink) {
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].done) continue;
    const Job::News news = choices_[i].job->Take(kLookSeconds / static_cast<double>(choices_.size()));
    if (!WriteChoice(i, news, sink)) return false;
  }
  CheckTime();
  if (std::all_of(choices_.begin(), choices_.end(), [](const Choice& choice) { return choice.done; })) {
    return WriteEnd(sink);
  }
  if (SecondsSince(silent_since_) < kSilentSeconds) return true;
  silent_since_ = Clock::now();
  const std::string comment = ": waiting\n\n";
  return sink->write(comment.data(), comment.size());
}

std::optional<ApiError> AnswerWriter::Stream(Jobs jobs, httplib::Response* response,
                                             std::shared_ptr<void> until_written) {
  Begin(std::move(jobs));
  const auto first = std::make_shared<Job::News>(choices_.front().job->Take(kLookSeconds));
  if (first->finished && !first->status.ok()) {
    CancelAll();
    return FromStatus(first->status);
  }
  const auto self = shared_from_this();
  response->set_header("Cache-Control", "no-store");
  response->set_chunked_content_provider(
      "text/event-stream",
      [self, first, shown = false](size_t, httplib::DataSink& sink) mutable {
        if (HttpServer::ClientGone()) return false;
        if (!shown && !self->WriteChoice(0, *first, &sink)) return false;
        shown = true;
        return self->WriteNews(&sink);
      },
      [self, until_written = std::move(until_written)](bool) { self->CancelAll(); });
  return std::nullopt;
}

}  // namespace duo
