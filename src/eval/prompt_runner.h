// Answers prompts one after another, on the path that serves requests. A prefix that a prompt shares with the previous
// prompt is not read again.
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
  int64_t n_reused = 0;  // prompt tokens that were not read again
  int64_t n_generated = 0;
  double prefill_s = 0;
  double decode_s = 0;
  uint64_t kv_bytes = 0;  // after the prompt
};

/// Owns one session. Not thread safe. The model and the tokenizer must outlive it.
class PromptRunner {
 public:
  /// `options` are those of Session::Create. The runner sets snapshot_every itself, so that the session can return to
  /// any prefix. Errors as Session::Create.
  static Result<PromptRunner> Create(const Model& model, const Tokenizer& tokenizer, SessionOptions options);

  /// The reply does not depend on earlier prompts. Reuse ends at the start of a chunk, so that later tokens run in the
  /// same chunks as in a new session. Returns kCancelled when `progress` says stop (it is also asked while decoding).
  /// Other errors as Generate. After an error the runner behaves like a new one.
  Result<Reply> Run(const std::vector<int32_t>& prompt, const GenerateOptions& options,
                    const ProgressCallback& progress = {});

  const Session& session() const { return session_; }

 private:
  PromptRunner(const Model& model, const Tokenizer& tokenizer, Session session)
      : model_(&model), tokenizer_(&tokenizer), session_(std::move(session)) {}

  const Model* model_;
  const Tokenizer* tokenizer_;
  Session session_;
  int64_t n_prompt_ = 0;  // tokens of the session that belong to a prompt; generated ones were run one by one
};

}  // namespace duo
