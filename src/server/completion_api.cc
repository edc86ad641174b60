#include "server/completion_api.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <utility>

#include "duo/chat_turn.h"
#include "server/answer.h"

namespace duo {
namespace {

// Max log probabilities in one answer. Each takes about a hundred bytes of JSON.
constexpr int64_t kMaxLogProbEntries = 1 << 20;

uint64_t FreshSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

std::string IdOf(CompletionKind kind, uint64_t number) {
  return (kind == CompletionKind::kText ? "cmpl-" : "chatcmpl-") + std::to_string(number);
}

std::string NotInVocabulary(int32_t id, const ModelConfig& config) {
  return fmt::format("token {} is not in the vocabulary 0..{}", id, config.vocab_size - 1);
}

}  // namespace

CompletionApi::CompletionApi(const Model* model, const Tokenizer* tokenizer, std::optional<ChatTemplate> chat,
                             const CacheDefaults* cache, CompletionDefaults defaults, Scheduler* scheduler,
                             SessionStore* sessions)
    : model_(model),
      tokenizer_(tokenizer),
      chat_(std::move(chat)),
      cache_(cache),
      defaults_(std::move(defaults)),
      scheduler_(scheduler),
      sessions_(sessions) {}

ApiResult<std::vector<int32_t>> CompletionApi::Render(const std::vector<ChatMessage>& messages) const {
  if (!chat_) {
    return BadField(
        "messages",
        fmt::format("the model \"{}\" has no chat template that duo knows, and the server was started without "
                    "one; use /v1/completions with a text",
                    defaults_.model_name));
  }
  Result<std::vector<int32_t>> rendered = chat_->Render(*tokenizer_, messages);
  if (rendered.ok()) return *std::move(rendered);
  ApiError error = FromStatus(rendered.status());
  error.param = rendered.status().subject();
  return error;
}

ApiResult<std::vector<int32_t>> CompletionApi::Tokenize(const TokenizeRequest& request) const {
  if (!request.messages.empty()) return Render(request.messages);
  return tokenizer_->Encode(*request.text, request.add_special ? SpecialTokens::kAdd : SpecialTokens::kNone);
}

ApiStatus CompletionApi::CheckLength(const CompletionRequest& request, JobRequest* job) const {
  const int64_t n_prompt = std::ssize(job->prompt);
  const int64_t context = job->session.max_context;
  if (n_prompt == 0) return BadField("prompt", "the text has no tokens");
  for (const int32_t id : job->prompt) {
    if (id >= model_->config().vocab_size) return BadField("prompt", NotInVocabulary(id, model_->config()));
  }
  ApiError too_long;
  too_long.code = "context_length_exceeded";
  if (defaults_.max_prompt_tokens > 0 && n_prompt > defaults_.max_prompt_tokens) {
    too_long.message = fmt::format("the prompt has {} tokens, but this server accepts at most {}", n_prompt,
                                   defaults_.max_prompt_tokens);
    return too_long;
  }
  // A request without max_tokens gets at most the rest of the context.
  if (!request.max_tokens) job->generate.max_tokens = std::min(job->generate.max_tokens, context - n_prompt);
  if (job->generate.max_tokens < 0 || n_prompt > context || job->generate.max_tokens > context - n_prompt) {
    too_long.message = fmt::format("the context has {} tokens; the prompt has {} and max_tokens asks for {} more",
                                   context, n_prompt, std::max<int64_t>(job->generate.max_tokens, 0));
    return too_long;
  }
  return ApiOk();
}

// A stream sends its entries as they come, while a whole answer holds all of them.
ApiStatus CompletionApi::CheckLogProbs(const CompletionRequest& request, const std::vector<JobRequest>& jobs) {
  if (request.n_log_probs < 0) return ApiOk();
  int64_t n_scored = 0;
  for (const JobRequest& job : jobs) {
    if (job.prompt_log_probs) n_scored += std::ssize(job.prompt);
    if (!request.stream) n_scored += job.generate.max_tokens;
  }
  if (n_scored <= kMaxLogProbEntries / (1 + request.n_log_probs)) return ApiOk();
  return BadField(
      "logprobs",
      fmt::format("the log probabilities of {} tokens, each with {} others, are too many for one answer; ask "
                  "for fewer, or set \"stream\": true",
                  n_scored, request.n_log_probs));
}

JobRequest CompletionApi::SharedJob(CompletionKind kind, const Caller& caller, const CompletionRequest& request,
                                    uint64_t number) const {
  JobRequest job;
  job.id = IdOf(kind, number);
  job.generate = request.generate;
  if (!request.has_seed) {
    job.generate.sampler.seed = defaults_.seed == 0 ? FreshSeed() : defaults_.seed + (number << 16);
  }
  job.generate.max_tokens = request.max_tokens.value_or(kind == CompletionKind::kText ? 16 : defaults_.max_tokens);
  job.spec = request.spec;
  job.session_id = {.owner = caller.owner, .name = request.cache};
  job.n_log_probs = request.n_log_probs;
  job.prompt_log_probs = request.echo && request.n_log_probs >= 0;
  job.reuse = request.reuse;
  return job;
}

ApiResult<std::vector<std::vector<int32_t>>> CompletionApi::Prompts(CompletionKind kind,
                                                                    const CompletionRequest& request,
                                                                    JobRequest* job) const {
  std::vector<std::vector<int32_t>> prompts;
  if (kind == CompletionKind::kChat) {
    DUO_ASSIGN_OR_RETURN(std::vector<int32_t> rendered, Render(request.messages));
    prompts.push_back(std::move(rendered));
    const ChatMessage& first = request.messages.front();
    if (request.pin_system_prompt && first.role == ChatMessage::Role::kSystem) {
      const auto shared = SystemPromptTokens(*tokenizer_, *chat_, first);
      job->spec.pinned_prefix = shared.ok() ? *shared : 0;
    }
    AddTurnEnds(*tokenizer_, *chat_, &job->generate);
  }
  for (const Prompt& prompt : request.prompts) {
    const auto* text = std::get_if<std::string>(&prompt);
    prompts.push_back(text != nullptr ? tokenizer_->Encode(*text) : std::get<std::vector<int32_t>>(prompt));
  }
  return prompts;
}

ApiStatus CompletionApi::ResolveJob(JobRequest* job) const {
  Result<SessionOptions> session = ResolveSpec(job->spec, *cache_, model_->config());
  if (!session.ok()) {
    const std::string& field = session.status().subject();
    return FromStatus(field.empty() ? session.status() : session.status().About("duo." + field));
  }
  job->session = *std::move(session);
  const Status generate = CheckGenerateOptions(job->generate, tokenizer_);
  if (!generate.ok()) return FromStatus(generate);
  for (const auto& entry : job->generate.sampler.bias) {
    if (entry.first >= model_->config().vocab_size) {
      return BadField("logit_bias", NotInVocabulary(entry.first, model_->config()));
    }
  }
  return ApiOk();
}

ApiResult<std::vector<JobRequest>> CompletionApi::MakeJobs(CompletionKind kind, const Caller& caller,
                                                           const CompletionRequest& request, uint64_t number) const {
  JobRequest shared = SharedJob(kind, caller, request, number);
  DUO_ASSIGN_OR_RETURN(std::vector<std::vector<int32_t>> prompts, Prompts(kind, request, &shared));
  DUO_RETURN_IF_API_ERROR(ResolveJob(&shared));
  std::vector<JobRequest> jobs;
  for (size_t i = 0; i < prompts.size(); ++i) {
    JobRequest job = shared;
    job.prompt = std::move(prompts[i]);
    job.generate.sampler.seed += i;
    DUO_RETURN_IF_API_ERROR(CheckLength(request, &job));
    jobs.push_back(std::move(job));
  }
  DUO_RETURN_IF_API_ERROR(CheckLogProbs(request, jobs));
  return jobs;
}

ApiStatus CompletionApi::Complete(CompletionKind kind, const Caller& caller, const std::string& body,
                                  httplib::Response* response) {
  DUO_ASSIGN_OR_RETURN(const CompletionRequest request, ParseCompletion(body, kind));
  if (!request.model.empty() && request.model != defaults_.model_name) {
    ApiError error;
    error.http_status = 404;
    error.type = "not_found_error";
    error.code = "model_not_found";
    error.param = "model";
    error.message = fmt::format("\"{}\" is not served here; the model is \"{}\"", request.model, defaults_.model_name);
    return error;
  }
  if (const Status files = model_->CheckFiles(); !files.ok()) {
    ApiError error = PlainError(503, files.message());
    error.code = "model_changed";
    return error;
  }
  const uint64_t number = ++n_requests_;
  DUO_ASSIGN_OR_RETURN(std::vector<JobRequest> requests, MakeJobs(kind, caller, request, number));
  DUO_RETURN_IF_API_ERROR(sessions_->EnsureRestored({.owner = caller.owner, .name = request.cache}));
  auto answer = std::make_shared<AnswerWriter>(kind, request, IdOf(kind, number), defaults_.model_name, tokenizer_,
                                               defaults_.max_seconds);
  auto jobs = scheduler_->SubmitAll(std::move(requests));
  if (!jobs.ok()) return FromStatus(jobs.status());
  if (!request.stream) return answer->Wait(*std::move(jobs), response);
  return answer->Stream(*std::move(jobs), response, std::make_shared<StreamCounter::Token>(&streams_));
}

}  // namespace duo
