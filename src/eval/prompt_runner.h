// Answers prompts one after another, on the path that serves requests. What a prompt shares with the one before it is
// not read again.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "duo/generate.h"
#include "duo/model.h"
#include "duo/progress.h"
#include "duo/result.h"
#include "duo/session.h"
#include "duo/tokenizer.h"

namespace duo {

struct Reply {
  std::string text;
  int64_t n_prompt = 0;
  int64_t n_reused = 0;  // of them, not read again
  int64_t n_generated = 0;
  double prefill_s = 0;
  double decode_s = 0;
  uint64_t kv_bytes = 0;  // behind the prompt
};

/// Owner of one session. Not thread safe; model and tokenizer must outlive it.
class PromptRunner {
 public:
  /// `options` as for Session::Create, but for snapshot_every, which is decided here so that any prefix can be taken up
  /// again. Errors as there.
  static Result<PromptRunner> Create(const Model& model, const Tokenizer& tokenizer, SessionOptions options);

  /// The reply does not depend on the prompts before: reuse ends where a chunk begins, so that the tokens behind it are
  /// run in the very chunks that a new session would run them in. kCancelled when `progress` says stop (asked in
  /// decoding too); otherwise as Generate. After an error the runner is as good as new.
  Result<Reply> Run(const std::vector<int32_t>& prompt, const GenerateOptions& options,
                    const ProgressCallback& progress = {});

  const Session& session() const { return session_; }

 private:
  PromptRunner(const Model& model, const Tokenizer& tokenizer, Session session)
      : model_(&model), tokenizer_(&tokenizer), session_(std::move(session)) {}

  const Model* model_;
  const Tokenizer* tokenizer_;
  Session session_;
  int64_t n_prompt_ = 0;  // tokens of the session that were a prompt: generated ones were run one by one
};

}  // namespace duo
