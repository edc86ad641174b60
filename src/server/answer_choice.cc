#include "server/answer_choice.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <variant>

#include "base/strings.h"

namespace duo {
namespace {

double PerSecond(int64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; }

}  // namespace

void AnswerPart::Append(AnswerPart later) {
  text += later.text;
  std::move(later.scored.begin(), later.scored.end(), std::back_inserter(scored));
}

AnswerChoice::AnswerChoice(const CompletionRequest* request, size_t index, const TokenTexts* texts,
                           std::shared_ptr<Job> job)
    : request_(request), index_(index), texts_(texts), job_(std::move(job)) {}

AnswerPart AnswerChoice::Add(const Job::News& news) {
  AnswerPart part;
  part.begins = !begun_ && (news.prompt_done == n_prompt() || !news.tokens.empty());
  begun_ = begun_ || part.begins;
  part.read_more = !begun_ && news.prompt_done != n_read_;
  n_read_ = news.prompt_done;
  if (part.begins && request_->echo) part.text = Echo();
  for (const auto& log_probs : news.prompt_log_probs) {
    const size_t index = n_prompt_scored_++;
    AddScored(job_->request.prompt[index], ShownInEcho(index), log_probs, &part);
  }
  for (const JobToken& token : news.tokens) {
    part.text += token.piece;
    const Shown shown = texts_->tokenizer().IsSpecial(token.id) ? Shown::kNo : Shown::kYes;
    if (token.log_probs) AddScored(token.id, shown, token.log_probs, &part);
  }
  if (news.finished && !done_) {
    part.text += news.rest;
    End(news);
  }
  return part;
}

void AnswerChoice::EndForTime() {
  time_is_over_ = true;
  Cancel();
}

void AnswerChoice::End(const Job::News& news) {
  done_ = true;
  stats_ = news.stats;
  status_ = news.status;
  out_of_time_ = time_is_over_ && news.status.code() == StatusCode::kCancelled;
  if (out_of_time_ && news.stats.n_generated > 0) status_ = OkStatus();
}

std::string AnswerChoice::Echo() const {
  const auto* given = std::get_if<std::string>(&request_->prompts[index_]);
  return given != nullptr ? *given : texts_->tokenizer().Decode(job_->request.prompt, SpecialTokens::kNone);
}

// A prompt sent as text is echoed unchanged: with the special tokens written in it, without those that the tokenizer
// adds around it. A prompt sent as ids is decoded without special tokens.
AnswerChoice::Shown AnswerChoice::ShownInEcho(size_t index) const {
  const std::vector<int32_t>& prompt = job_->request.prompt;
  if (!std::holds_alternative<std::string>(request_->prompts[index_])) {
    return texts_->tokenizer().IsSpecial(prompt[index]) ? Shown::kNo : Shown::kYes;
  }
  const Tokenizer& tokenizer = texts_->tokenizer();
  const bool around = index < tokenizer.prefix().size() || index + tokenizer.suffix().size() >= prompt.size();
  return around ? Shown::kNo : Shown::kYes;
}

void AnswerChoice::AddScored(int32_t id, Shown shown, const std::optional<LogProbs>& log_probs, AnswerPart* part) {
  part->scored.push_back({.text = texts_->Of(id), .offset = n_characters_, .log_probs = log_probs});
  if (shown == Shown::kYes) n_characters_ += CountCharacters(part->scored.back().text);
}

const char* AnswerChoice::FinishName() const {
  if (out_of_time_) return "length";
  const bool stop = stats_.finish == FinishReason::kEos || stats_.finish == FinishReason::kStop;
  return stop ? "stop" : "length";
}

Json AnswerChoice::DuoJson() const {
  const JobStats& s = stats_;
  return {{"timings",
           {{"queue_s", s.queue_s},
            {"prefill_s", s.prefill_s},
            {"first_token_s", s.first_token_s},
            {"decode_s", s.decode_s},
            {"prefill_tokens_per_s", PerSecond(s.n_prompt - s.n_cached, s.prefill_s)},
            {"decode_tokens_per_s", PerSecond(std::max<int64_t>(s.n_generated - 1, 0), s.decode_s)}}},
          {"cached_tokens", s.n_cached},
          {"kv_bytes", s.kv_bytes},
          {"sparsity", SparsityOf(job_->request.session.heads)},
          {"finish", out_of_time_ ? "time_limit" : FinishReasonName(s.finish)}};
}

}  // namespace duo
