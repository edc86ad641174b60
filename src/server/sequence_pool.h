// The sequences a server holds: those that run and those that are kept for their prefixes, within one budget of memory.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "duo/session.h"
#include "server/cache_spec.h"
#include "server/session_id.h"

namespace duo {

/// One sequence. `busy` ones belong to whoever claimed them; the pool touches only the others.
struct PooledSequence {
  std::unique_ptr<Session> session;  // null while it is being restored
  CacheSpec spec;
  SessionOptions options;  // resolved
  SessionId id;            // whose it is, and of which session
  bool busy = false;
  uint64_t bytes = 0;   // counted against the budget: what it was promised while busy, what it holds otherwise
  int64_t longest = 0;  // tokens whose rows are in memory
  uint64_t last_use = 0;
};

struct PoolLimits {
  uint64_t budget_bytes = 0;     // for sequences and what the workspace grows by
  uint64_t workspace_bytes = 0;  // that the workspace has already, outside the budget
  size_t max_sequences = 64;     // each takes address space, of which the system gives a number of pieces
};

/// Not thread safe.
class SequencePool {
 public:
  /// `model` and `workspace` must outlive it.
  SequencePool(const Model& model, Workspace* workspace, const PoolLimits& limits);

  /// Fails with kResourceExhausted when n_tokens would not fit even alone: bytes needed and available.
  Status CheckEverFits(const SessionOptions& options, int64_t n_tokens) const;

  struct Wanted {
    std::span<const int32_t> prompt;
    int64_t n_tokens = 0;  // prompt and all that may be generated
    const CacheSpec* spec = nullptr;
    const SessionOptions* options = nullptr;  // resolved
    SessionId id;
    bool fresh = false;  // nothing may be reused
  };
  struct Claim {
    PooledSequence* sequence = nullptr;
    int64_t n_held = 0;  // tokens of the prompt that it has; fewer than the prompt
  };
  /// A sequence for the request, busy, with room promised for n_tokens: one that shares a prefix, a copy of such a one,
  /// or an empty one. Only sequences of the same owner and the same salt are looked at: how long a prompt takes, and
  /// how much of it was there, tells nothing of what others asked. Kept sequences make room, least recently used first,
  /// those with a name last. kCancelled: not now, what runs holds the memory or the named session. kInvalidArgument:
  /// the named session is of another kind.
  Result<Claim> Acquire(const Wanted& wanted);

  /// Keeps what was claimed, or forgets it.
  void Release(PooledSequence* sequence);
  void Drop(PooledSequence* sequence);

  /// A named sequence that is not busy, made busy. kNotFound; kCancelled when it is busy.
  Result<PooledSequence*> CheckOut(const SessionId& id);
  /// Room for a sequence that is about to be restored; its session is to be set, then Release. kCancelled,
  /// kResourceExhausted, kInvalidArgument when the name is taken.
  Result<PooledSequence*> Reserve(const SessionId& id, const CacheSpec& spec, const SessionOptions& options,
                                  int64_t n_tokens);

  const std::list<PooledSequence>& sequences() const { return sequences_; }
  bool Has(const SessionId& id) const;
  bool IsBusy(const SessionId& id) const;
  uint64_t budget_bytes() const { return limits_.budget_bytes; }
  uint64_t promised_bytes() const;  // of busy sequences
  uint64_t kept_bytes() const;      // of the others
  /// Of those that the caller sees.
  uint64_t promised_bytes(const Caller& caller) const;
  uint64_t kept_bytes(const Caller& caller) const;
  uint64_t n_evicted() const { return n_evicted_; }

 private:
  MemoryPlan PlanOf(const SessionOptions& options) const;
  /// What the workspace lacks for windows larger than it has served yet.
  uint64_t Growth(const SessionOptions& options) const;
  void KeepGrowth(const SessionOptions& options);
  /// Of a sequence, with that growth.
  uint64_t BytesOf(const SessionOptions& options, int64_t n_tokens) const;
  PooledSequence* Named(const SessionId& id);
  /// The sequence that has most of the prompt, and how much a session that goes on from it would hold.
  Claim BestPrefix(const Wanted& wanted);
  /// Gives up kept sequences until `bytes` more fit; none of `keep`. False, and nothing is given up, when that cannot
  /// be.
  bool MakeRoom(uint64_t bytes, size_t n_more, const PooledSequence* keep);
  Result<Claim> TakeOver(PooledSequence* sequence, const Wanted& wanted, int64_t pos);
  Result<Claim> Copy(const PooledSequence& from, const Wanted& wanted, int64_t pos);
  Result<Claim> Make(const Wanted& wanted);
  PooledSequence* Add(const Wanted& wanted, std::unique_ptr<Session> session, uint64_t bytes);

  const Model& model_;
  Workspace* workspace_;
  PoolLimits limits_;
  std::list<PooledSequence> sequences_;
  uint64_t clock_ = 0;
  uint64_t n_evicted_ = 0;
};

}  // namespace duo
