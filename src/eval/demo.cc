#include "eval/demo.h"

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "base/strings.h"
#include "duo/generate.h"

namespace duo {
namespace {

bool IsHit(std::string_view text, std::string_view expected) { return TrimEnd(TrimStart(text, " "), " .") == expected; }

}  // namespace

Result<DemoInput> MakeBookInput(const Tokenizer& tokenizer, int64_t n_tokens, int n_facts, uint64_t seed) {
  DUO_ASSIGN_OR_RETURN(const Book book,
                       MakeBook({.n_tokens = n_tokens, .n_facts = n_facts, .seed = seed},
                                [&](std::string_view text) { return std::ssize(tokenizer.Encode(text)); }));
  DemoInput input;
  input.text = tokenizer.Encode(book.text);
  input.max_tokens = 0;
  for (const Fact& fact : book.facts) {
    const int64_t n_answer = std::ssize(tokenizer.Encode(" " + fact.answer, SpecialTokens::kNone));
    input.max_tokens = std::max(input.max_tokens, n_answer + 4);
    input.questions.push_back({fact.question, fact.answer, fact.depth});
  }
  return input;
}

Result<HeadChoice> RandomHeadsLike(const HeadChoice& like, uint64_t seed) {
  const int n_heads = like.n_layers * like.n_kv_heads;
  const int n_streaming = n_heads - like.n_retrieval();
  // The rule of sparsity keeps N - ceil(s * (N - 1)) heads. This s is the middle of the range that makes n_streaming
  // heads stream.
  const double sparsity = n_streaming == 0 ? 0.0 : n_streaming == n_heads ? 1.0 : (n_streaming - 0.5) / (n_heads - 1);
  return ChooseAtRandom(like.n_layers, like.n_kv_heads, sparsity, seed);
}

Status WarmUpDemo(const Model& model, const SessionOptions& options, const DemoInput& input) {
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model, options));
  const int64_t n = std::min(std::ssize(input.text), session.options().chunk);
  DUO_RETURN_IF_ERROR(session.Prefill(std::span<const int32_t>(input.text).first(n)));
  return session.Decode(input.text.front());
}

Result<DemoMode> RunDemoMode(const std::string& name, const Model& model, const Tokenizer& tokenizer,
                             const SessionOptions& options, const DemoInput& input, const ProgressCallback& progress,
                             const GoOn& go_on) {
  const auto n_text = std::ssize(input.text);
  SessionOptions with_snapshot = options;
  // A copy of the streaming rings, taken where the text ends, lets every question start exactly there.
  with_snapshot.snapshot_every = n_text;
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model, with_snapshot));
  DemoMode mode;
  mode.name = name;
  mode.session = session.options();
  mode.sparsity = mode.session.heads.sparsity();
  const auto begin = Clock::now();
  DUO_RETURN_IF_ERROR(session.Prefill(input.text, progress));
  mode.prefill_s = SecondsSince(begin);
  mode.prefill_tokens_per_s = static_cast<double>(n_text) / mode.prefill_s;
  mode.kv_bytes = session.kv_bytes();

  GenerateOptions generate;
  generate.max_tokens = input.max_tokens;
  generate.stop = {"\n"};
  const TextCallback on_text = [&](const std::string&) { return !go_on || go_on(); };
  double decode_s = 0;
  size_t n_steps = 0;
  for (const DemoQuestion& question : input.questions) {
    DUO_RETURN_IF_ERROR(session.Rewind(n_text));
    const std::vector<int32_t> prompt = tokenizer.Encode(question.prompt, SpecialTokens::kNone);
    DUO_ASSIGN_OR_RETURN(const GenerateResult result, Generate(&session, model, &tokenizer, prompt, generate, on_text));
    if (result.finish == FinishReason::kCancelled || (go_on && !go_on())) return Cancelled();
    if (mode.answers.empty()) mode.time_to_first_token_s = mode.prefill_s + result.first_token_seconds;
    // The first token comes from the question's own logits. Every other one takes a step of the model.
    decode_s += result.decode_seconds;
    n_steps += result.tokens.empty() ? 0 : result.tokens.size() - 1;
    const bool hit = question.expected.has_value() && IsHit(result.text, *question.expected);
    mode.hits += hit ? 1 : 0;
    mode.answers.push_back({result.text, hit});
  }
  mode.decode_tokens_per_s = n_steps == 0 ? 0 : static_cast<double>(n_steps) / decode_s;
  return mode;
}

}  // namespace duo
