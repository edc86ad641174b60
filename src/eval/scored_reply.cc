#include "eval/scored_reply.h"

namespace duo {

Result<ScoredReply> AnswerOnce(const ScoredPrompt& prompt, PromptRunner* runner, ResultLog* log,
                               const ProgressCallback& progress) {
  ScoredReply out;
  if (const Json* record = log->Find(prompt.key); record != nullptr) {
    DUO_ASSIGN_OR_RETURN(out.score, JsonNumber(*record, "score", prompt.key));
    DUO_ASSIGN_OR_RETURN(out.answer, JsonString(*record, "answer", prompt.key));
    DUO_ASSIGN_OR_RETURN(out.n_prompt, JsonInt(*record, "n_prompt", prompt.key));
    DUO_ASSIGN_OR_RETURN(out.n_reused, JsonInt(*record, "n_reused", prompt.key));
    DUO_ASSIGN_OR_RETURN(const int64_t kv_bytes, JsonInt(*record, "kv_bytes", prompt.key));
    out.kv_bytes = kv_bytes;
    return out;
  }
  DUO_ASSIGN_OR_RETURN(Reply reply, runner->Run(prompt.prompt(), prompt.generate, progress));
  out.score = prompt.score(reply.text);
  out.n_prompt = reply.n_prompt, out.n_reused = reply.n_reused, out.kv_bytes = reply.kv_bytes;
  out.answer = std::move(reply.text);
  DUO_RETURN_IF_ERROR(log->Append(prompt.key, {{"score", out.score},
                                               {"answer", out.answer},
                                               {"n_prompt", out.n_prompt},
                                               {"n_reused", out.n_reused},
                                               {"kv_bytes", out.kv_bytes}}));
  return out;
}

}  // namespace duo
