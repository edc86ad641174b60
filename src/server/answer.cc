#include "server/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "server/http_server.h"

// The thread of a connection runs all of this. It shares only the jobs with the scheduler's thread, and a Job has a
// mutex of its own. So an AnswerWriter needs none.

namespace duo {
namespace {

// A waiting handler checks this often whether its client is still connected.
constexpr double kPollSeconds = 0.1;
// A stream without news sends a comment this often, so that neither side takes the connection for dead.
constexpr double kSilentSeconds = 2;
constexpr int kRetrySeconds = 2;

bool Write(httplib::DataSink* sink, const std::string& text) { return sink->write(text.data(), text.size()); }
/// One server-sent event. An empty line ends it.
bool Send(httplib::DataSink* sink, const Json& event) { return Write(sink, "data: " + JsonText(event) + "\n\n"); }

}  // namespace

AnswerWriter::AnswerWriter(CompletionKind kind, CompletionRequest request, std::string id, std::string model,
                           const Tokenizer* tokenizer, double max_seconds)
    : format_(FormatOf(kind)),
      request_(std::move(request)),
      id_(std::move(id)),
      model_(std::move(model)),
      texts_(tokenizer),
      created_(static_cast<int64_t>(std::time(nullptr))),
      max_seconds_(max_seconds) {}

// A pointer to the request stays valid: it is a member, and the library's provider holds this object.
void AnswerWriter::Begin(Jobs jobs) {
  for (auto& job : jobs) choices_.emplace_back(&request_, choices_.size(), &texts_, std::move(job));
}

void AnswerWriter::CancelAll() {
  for (AnswerChoice& choice : choices_) choice.Cancel();
}

// The jobs end in the scheduler's next step. Until then their news is still taken, and belongs to the answer.
void AnswerWriter::CheckTime() {
  if (time_is_over_ || max_seconds_ <= 0 || SecondsSince(begun_) < max_seconds_) return;
  time_is_over_ = true;
  for (AnswerChoice& choice : choices_) choice.EndForTime();
}

ApiError AnswerWriter::ErrorOf(const AnswerChoice& choice) const {
  if (!choice.out_of_time()) return FromStatus(choice.status());
  // A retry reads less, because the sequence with the tokens so far stays in the pool.
  ApiError error = PlainError(503, fmt::format("no token was generated within the {:g} s that this server allows a "
                                               "request; the part of the prompt that was read is kept for a retry",
                                               max_seconds_));
  error.code = "time_limit";
  error.retry_after_s = kRetrySeconds;
  return error;
}

// ---------------------------------------------------------------- JSON

Json AnswerWriter::Head(const char* object) const {
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_}};
}

Json AnswerWriter::Usage() const {
  int64_t prompt = 0, completion = 0, cached = 0;
  for (const AnswerChoice& choice : choices_) {
    prompt += choice.stats().n_prompt;
    completion += choice.stats().n_generated;
    cached += choice.stats().n_cached;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

Json AnswerWriter::Whole(const std::vector<AnswerPart>& parts) const {
  Json whole = Head(format_.WholeObject());
  whole["choices"] = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    Json one = format_.WholeText(parts[i].text);
    one["index"] = i;
    one["finish_reason"] = choices_[i].FinishName();
    one["logprobs"] = request_.n_log_probs < 0 ? Json(nullptr) : format_.LogProbsJson(parts[i].scored, texts_);
    whole["choices"].push_back(std::move(one));
  }
  whole["usage"] = Usage();
  // The times of a batch are those of its first prompt.
  whole["duo"] = choices_.front().DuoJson();
  return whole;
}

// Clients of OpenAI's interface read "finish_reason", "logprobs" and "usage" in every event, also where they are null.
Json AnswerWriter::Event(size_t index, Json content, const char* finish) const {
  Json event = Head(format_.EventObject());
  content["index"] = index;
  content["finish_reason"] = finish == nullptr ? Json(nullptr) : Json(finish);
  if (!content.contains("logprobs")) content["logprobs"] = nullptr;
  event["choices"] = Json::array({std::move(content)});
  if (request_.include_usage) event["usage"] = nullptr;
  return event;
}

// ---------------------------------------------------------------- a whole answer

ApiStatus AnswerWriter::Wait(Jobs jobs, httplib::Response* response) {
  Begin(std::move(jobs));
  std::vector<AnswerPart> parts(choices_.size());
  for (size_t i = 0; i < choices_.size(); ++i) {
    AnswerChoice& choice = choices_[i];
    // The jobs of the other choices go on meanwhile, and collect their news.
    while (!choice.done()) {
      parts[i].Append(choice.Add(choice.Take(kPollSeconds)));
      if (HttpServer::ClientGone()) CancelAll();
      CheckTime();
    }
    if (!choice.status().ok()) {
      // A whole answer has all choices or none, so the work on the others is no longer needed.
      CancelAll();
      return ErrorOf(choice);
    }
  }
  response->set_content(JsonText(Whole(parts)), "application/json");
  return ApiOk();
}

// ---------------------------------------------------------------- a stream

ApiStatus AnswerWriter::Stream(Jobs jobs, httplib::Response* response, std::shared_ptr<void> until_written) {
  Begin(std::move(jobs));
  // After the first byte an error can only be an event of the stream. This short wait gives a request that fails at
  // once the HTTP status of its error.
  const auto first = std::make_shared<Job::News>(choices_.front().Take(kPollSeconds));
  if (first->finished && !first->status.ok()) {
    CancelAll();
    return FromStatus(first->status);
  }
  // The library calls the provider after this function has returned, on the same thread.
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
  return ApiOk();
}

bool AnswerWriter::WriteNews(httplib::DataSink* sink) {
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].done()) continue;
    // All choices together wait for one poll, however many they are.
    const Job::News news = choices_[i].Take(kPollSeconds / static_cast<double>(choices_.size()));
    if (!WriteChoice(i, news, sink)) return false;
  }
  // The time is checked after the news: a choice that has just ended is complete.
  CheckTime();
  if (std::all_of(choices_.begin(), choices_.end(), [](const AnswerChoice& choice) { return choice.done(); })) {
    return WriteEnd(sink);
  }
  if (SecondsSince(silent_since_) < kSilentSeconds) return true;
  // A request may wait long in the queue. A comment also shows the library that its client is still there.
  silent_since_ = Clock::now();
  return Write(sink, ": waiting\n\n");
}

bool AnswerWriter::WriteChoice(size_t index, const Job::News& news, httplib::DataSink* sink) {
  AnswerChoice& choice = choices_[index];
  const AnswerPart part = choice.Add(news);
  if (part.read_more) {
    if (!Write(sink, fmt::format(": prefill {} of {}\n\n", news.prompt_done, choice.n_prompt()))) return false;
    silent_since_ = Clock::now();  // this comment is news enough
  }
  if (!WritePart(index, part, sink)) return false;
  return !choice.done() || WriteEndOfChoice(index, sink);
}

bool AnswerWriter::WritePart(size_t index, const AnswerPart& part, httplib::DataSink* sink) {
  // Clients of the chat interface take the role from the first event.
  if (part.begins) {
    Json begin = format_.BeginOfText();
    if (!begin.is_null() && !Send(sink, Event(index, std::move(begin), nullptr))) return false;
  }
  if (part.text.empty() && part.scored.empty()) return true;
  Json content = format_.NewText(part.text);
  if (!part.scored.empty()) content["logprobs"] = format_.LogProbsJson(part.scored, texts_);
  if (!Send(sink, Event(index, std::move(content), nullptr))) return false;
  silent_since_ = Clock::now();
  return true;
}

bool AnswerWriter::WriteEndOfChoice(size_t index, httplib::DataSink* sink) {
  const AnswerChoice& choice = choices_[index];
  if (!choice.status().ok()) {
    // The stream ends without [DONE]. So a client cannot take what it has for the whole answer.
    CancelAll();
    Send(sink, ToJson(ErrorOf(choice)));
    sink->done();
    return false;
  }
  Json last = Event(index, format_.EndOfText(), choice.FinishName());
  last["duo"] = choice.DuoJson();
  return Send(sink, last);
}

bool AnswerWriter::WriteEnd(httplib::DataSink* sink) const {
  if (request_.include_usage) {
    Json usage = Head(format_.EventObject());
    usage["choices"] = Json::array();
    usage["usage"] = Usage();
    if (!Send(sink, usage)) return false;
  }
  if (!Write(sink, "data: [DONE]\n\n")) return false;
  sink->done();
  return true;
}

}  // namespace duo
