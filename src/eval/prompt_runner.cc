#include "eval/prompt_runner.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace duo {
namespace {

// Limits on the copies of the rings, with which the session can return to any prefix: their number and their bytes.
constexpr int64_t kMaxSnapshots = 64;
constexpr uint64_t kMaxSnapshotBytes = uint64_t{256} << 20;

}  // namespace

Result<PromptRunner> PromptRunner::Create(const Model& model, const Tokenizer& tokenizer, SessionOptions options) {
  options.snapshot_every = 0;
  if (options.heads.n_layers != 0 && options.heads.sparsity() > 0) {  // otherwise the cache keeps everything
    const int64_t context = model.config().ContextFor(options.max_context);
    options.snapshot_every = options.chunk;
    DUO_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(model.config(), 0, options, *model.backend()));
    const int64_t affordable = kMaxSnapshotBytes / std::max<uint64_t>(1, plan.snapshot_bytes_each);
    const int64_t n_snapshots = std::clamp<int64_t>(affordable, 1, kMaxSnapshots);
    options.snapshot_every =
        std::max<int64_t>(1, (context + options.chunk * n_snapshots - 1) / (options.chunk * n_snapshots)) *
        options.chunk;
  }
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model, options));
  return PromptRunner(model, tokenizer, std::move(session));
}

Result<Reply> PromptRunner::Run(const std::vector<int32_t>& prompt, const GenerateOptions& options,
                                const ProgressCallback& progress) {
  const std::vector<int32_t>& had = session_.tokens();
  const auto limit = std::min(n_prompt_, std::ssize(prompt) - 1);  // the last token gives the logits
  int64_t same = 0;
  while (same < limit && had[same] == prompt[same]) ++same;
  const int64_t keep = same / session_.options().chunk * session_.options().chunk;
  n_prompt_ = 0;
  Reply reply;
  reply.n_prompt = std::ssize(prompt);
  // Rewinding restores the last copy of the rings and runs the tokens after it again.
  const int64_t every = session_.options().snapshot_every;
  reply.n_reused = every > 0 ? keep / every * every : keep;
  DUO_RETURN_IF_ERROR(session_.Rewind(keep, progress));
  const std::vector<int32_t> rest(prompt.begin() + keep, prompt.end());
  const TextCallback go_on = [&](const std::string&) { return !progress || progress({.stage = "answer"}); };
  DUO_ASSIGN_OR_RETURN(GenerateResult result, Generate(&session_, *model_, tokenizer_, rest, options, go_on, progress));
  if (result.finish == FinishReason::kCancelled) return Cancelled();
  n_prompt_ = reply.n_prompt;
  reply.text = std::move(result.text);
  reply.n_generated = std::ssize(result.tokens);
  reply.prefill_s = result.prefill_seconds;
  reply.decode_s = result.decode_seconds;
  const MemoryPlan& plan = session_.plan();  // excludes the copies that only this runner makes
  reply.kv_bytes = plan.kv_fixed_bytes + plan.kv_bytes_per_token * reply.n_prompt;
  return reply;
}

}  // namespace duo
