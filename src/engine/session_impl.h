// The members of sessions and workspaces. Only files in engine/ include this.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "attention/duo_attention.h"
#include "duo/session.h"
#include "kv/split_kv_cache.h"
#include "model/activations.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace duo {

class Workspace::Impl {
 public:
  Impl(const Model::Weights& weights, int64_t max_chunk, ComputeType compute_type, Activations act)
      : chunk(max_chunk),
        compute(compute_type),
        attention(weights.backend, max_chunk),
        activations(std::move(act)),
        transformer(weights, compute_type) {}

  const int64_t chunk;
  const ComputeType compute;
  DuoAttention attention;
  Activations activations;
  Transformer transformer;
};

class Session::Impl {
 public:
  Impl(const Model::Weights& model_weights, SessionOptions resolved, MemoryPlan memory_plan, SplitKvCache kv,
       std::unique_ptr<Workspace> own_work, Workspace::Impl* shared_work)
      : weights(model_weights),
        options(std::move(resolved)),
        plan(memory_plan),
        cache(std::move(kv)),
        own(std::move(own_work)),
        work(shared_work) {}

  SequenceState state() { return {&cache, &work->attention, &work->activations}; }
  /// Checks the arguments of DecodeTogether. Returns the caches of the sessions.
  static Result<std::vector<SplitKvCache*>> CachesTogether(std::span<Session* const> sessions,
                                                           std::span<const int32_t> ids);
  Status CheckIds(std::span<const int32_t> ids) const;
  Status CheckFits(int64_t n_tokens) const;
  Status CheckPosition(int64_t pos) const;
  /// Called after each chunk went through the layers, with the position of its first row and its number of rows.
  using ChunkDone = std::function<Status(int64_t pos, int64_t n)>;
  Status RunChunks(std::span<const int32_t> ids, TokenKind kind, const ProgressCallback& progress,
                   const ChunkDone& chunk_done);
  /// Sets the logits to those after the last token of the last Forward.
  Status KeepLast() { return KeepRow(work->activations.n_tokens - 1); }
  /// Sets them to those after row `row` of the last Forward.
  Status KeepRow(int64_t row);
  /// The error for logits after the tokens `seen` that are not finite. Overwrites the activations.
  Status NotFinite(std::span<const int32_t> seen) const;
  void ForgetLast();

  const Model::Weights& weights;  // moving the Model does not move them
  SessionOptions options;
  MemoryPlan plan;
  SplitKvCache cache;
  std::unique_ptr<Workspace> own;  // null when the workspace is shared
  Workspace::Impl* work;
  std::vector<int32_t> tokens;
  std::vector<TokenKind> kinds;  // one per token: prompt and generated tokens have different windows
  std::vector<float> logits;     // after the last token; may be empty
};

}  // namespace duo
