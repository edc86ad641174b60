// Parts 2 to 4 of the scheduler's step, in which the model runs. The worker's thread runs them without the scheduler's
// mutex. They touch only running requests: their sequences are busy in the pool, and a Job has a mutex of its own.
#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "server/prompt_turns.h"
#include "server/scheduler.h"

namespace duo {

// A step that has begun is not interrupted: a client that leaves costs at most one more.
void Scheduler::FinishCancelled() {
  for (const auto& running : running_) {
    if (running->phase == Phase::kDone || !running->job->cancelled()) continue;
    metrics_->CountCancelled(running->job->request.session_id.owner);
    Fail(running.get(), Cancelled());
  }
}

// The job is finished in FinishDone, which holds the mutex.
void Scheduler::Fail(Running* running, const Status& status) {
  running->status = status;
  running->phase = Phase::kDone;
}

Scheduler::Running* Scheduler::NextPrompt() {
  std::vector<Running*> reading;
  std::vector<UnreadPrompt> unread;
  for (const auto& running : running_) {
    if (running->phase != Phase::kPrefill) continue;
    reading.push_back(running.get());
    unread.push_back({.n_left = running->stats.n_prompt - running->n_read, .last_turn = running->last_turn});
  }
  if (reading.empty()) return nullptr;
  Running* next = reading[PromptOfTurn(turn_, unread)];
  // Counted so that tests can check how long prompts wait for others, which times would not tell exactly.
  for (Running* running : reading) running->stats.n_chunks_waited += running == next ? 0 : 1;
  next->last_turn = turn_++;
  return next;
}

void Scheduler::PrefillOneChunk() {
  Running* running = NextPrompt();
  if (running == nullptr) return;
  const bool alone = std::all_of(running_.begin(), running_.end(),
                                 [&](const auto& r) { return r.get() == running || r->phase == Phase::kDone; });
  const JobRequest& request = running->job->request;
  Session* session = running->sequence->session.get();
  const std::span<const int32_t> prompt(request.prompt);
  const SessionOptions& options = session->options();
  // A chunk delays the tokens of other requests, so beside them it is a piece. With f32 it always is: another number of
  // tokens in a chunk would change the last bits of their numbers (sequence_pool.h).
  const int64_t chunk = alone && options.compute != ComputeType::kF32 ? options.chunk : PieceTokens(options);
  // Chunks end at multiples of their size also when the first tokens came from memory.
  const int64_t n = std::min(chunk - running->n_read % chunk, running->stats.n_prompt - running->n_read);
  const auto ids = prompt.subspan(running->n_read, n);
  std::vector<std::optional<LogProbs>> log_probs;
  Status status;
  if (request.prompt_log_probs) {
    if (running->n_read == 0) log_probs.emplace_back();  // no token comes before the first one
    status = session->PrefillWithLogits(ids, running->n_read, running->n_read + n,
                                        [&](int64_t pos, std::span<const float> logits) {
                                          if (pos + 1 < running->stats.n_prompt) {
                                            const int32_t id = prompt[pos + 1];
                                            log_probs.emplace_back(LogProbsOf(logits, id, request.n_log_probs));
                                          }
                                          return OkStatus();
                                        });
  } else {
    status = session->Prefill(ids);
  }
  if (!status.ok()) return Fail(running, status);
  running->n_read += n;
  running->job->ReportPrompt(running->n_read, std::move(log_probs));
  if (running->n_read < running->stats.n_prompt) return;
  running->prefilled = Clock::now();
  running->stats.prefill_s = SecondsBetween(running->started, *running->prefilled);
  if (running->loop->finished()) {  // it asked for no tokens
    running->phase = Phase::kDone;
  } else {
    running->phase = Phase::kDecode;
    TakeToken(running);
  }
}

// Samples the next token from the logits and reports it to the client.
void Scheduler::TakeToken(Running* running) {
  const Session& session = *running->sequence->session;
  const JobRequest& request = running->job->request;
  const TokenLoop::Step step = running->loop->Next(session.logits(), session.tokens());
  const auto now = Clock::now();
  if (running->last_token) {
    metrics_->AddTokenSeconds(request.session_id.owner, SecondsBetween(*running->last_token, now));
  } else {
    running->stats.first_token_s = SecondsBetween(running->job->submitted, now);
    metrics_->AddFirstTokenSeconds(request.session_id.owner, running->stats.first_token_s);
  }
  running->last_token = now;
  running->next = step.id;
  if (step.is_text) {
    ++running->stats.n_generated;
    JobToken token{.id = step.id, .piece = step.piece, .log_probs = {}};
    if (request.n_log_probs >= 0) token.log_probs = LogProbsOf(session.logits(), step.id, request.n_log_probs);
    running->job->ReportToken(std::move(token));
  }
  if (running->loop->finished()) running->phase = Phase::kDone;
}

// One pass over the weights serves all texts. Reading the weights takes most of a step's time, so each further text
// costs little.
void Scheduler::DecodeAll() {
  std::vector<Running*> group;
  std::map<std::string, int64_t> n_of_owner;
  for (const auto& running : running_) {
    if (running->phase != Phase::kDecode) continue;
    group.push_back(running.get());
    ++n_of_owner[running->job->request.session_id.owner];
  }
  if (group.empty()) return;
  metrics_->AddBatch(n_of_owner);
  DecodeGroup(group);
}

void Scheduler::DecodeGroup(const std::vector<Running*>& group) {
  std::vector<Session*> sessions;
  std::vector<int32_t> ids;
  for (const Running* running : group) {
    sessions.push_back(running->sequence->session.get());
    ids.push_back(*running->next);
  }
  const int64_t before = sessions[0]->len();  // the step extends all sessions or none
  const Status status = Session::DecodeTogether(sessions, ids);
  if (status.ok() || sessions[0]->len() != before) {  // grown: sessions without logits cannot repeat the step
    for (Running* running : group) {
      if (running->sequence->session->logits().empty()) {
        Fail(running, status);
      } else {
        TakeToken(running);
      }
    }
    return;
  }
  if (group.size() == 1) {
    // A full context ends an answer like max_tokens. It is not an error.
    if (status.code() == StatusCode::kResourceExhausted && sessions[0]->len() == sessions[0]->options().max_context) {
      group[0]->loop->Stop(FinishReason::kContextFull);
      group[0]->phase = Phase::kDone;
      return;
    }
    return Fail(group[0], status);
  }
  // At least one of them cannot continue. Each takes the step alone, so that the others do.
  for (Running* running : group) DecodeGroup({running});
}

}  // namespace duo
