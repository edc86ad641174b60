// The sequences a server holds: those that run and those that are kept for their prefixes, within one budget of memory.
//
// With ComputeType::kF32 an answer does not depend, to the last bit, on what was kept. The numbers of a prompt's token
// depend on the chunk it is read in (another number of tokens, another order of additions), so all chunks have to be
// the same whether their beginnings are read or found: they end at multiples of a piece (PieceTokens) and where rings
// are copied, and a sequence is reused up to such an end alone, and never beyond its first generated token.
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

/// Tokens of a piece. Prompts are read in pieces that end at multiples of this, while others run and, with
/// ComputeType::kF32, always.
int64_t PieceTokens(const SessionOptions& options);

/// One sequence. `busy` ones belong to whoever claimed them; the pool touches only the others.
struct PooledSequence {
  std::unique_ptr<Session> session;  // null while it is being restored
  CacheSpec spec;
  SessionOptions options;  // resolved
  SessionId id;            // whose it is, and of which session
  bool busy = false;
  bool saved = false;   // whether its file has all of it
  uint64_t bytes = 0;   // counted against the budget: what it was promised while busy, what it holds otherwise
  uint64_t growth = 0;  // what the workspace needs beyond its own while this one runs
  int64_t longest = 0;  // tokens whose rows are in memory
  uint64_t last_use = 0;
};

struct PoolLimits {
  uint64_t budget_bytes = 0;     // for sequences and for what the workspace grows by while some of them run
  uint64_t workspace_bytes = 0;  // that the workspace has at any time, outside the budget
  size_t max_sequences = 64;     // each takes address space, of which the system gives a number of pieces
};

/// Not thread safe. Acquire, and Release and Drop of what it gave, belong to the thread that runs the sequences: they
/// may give the workspace's memory back.
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
  /// those with a name last. kUnavailable: what runs holds the memory or the named session (server/unavailable.h tells
  /// which). kInvalidArgument: the named session is of another kind.
  Result<Claim> Acquire(const Wanted& wanted);

  /// Keeps what was claimed, or forgets it.
  void Release(PooledSequence* sequence);
  void Drop(PooledSequence* sequence);

  /// A named sequence that is not busy, made busy. kNotFound; kUnavailable when it is busy.
  Result<PooledSequence*> CheckOut(const SessionId& id);
  /// Room for a sequence that is about to be restored; its session is to be set, then Release. kUnavailable,
  /// kResourceExhausted, kInvalidArgument when the name is taken.
  Result<PooledSequence*> Reserve(const SessionId& id, const CacheSpec& spec, const SessionOptions& options,
                                  int64_t n_tokens);

  const std::list<PooledSequence>& sequences() const { return sequences_; }
  bool Has(const SessionId& id) const;
  bool IsBusy(const SessionId& id) const;
  uint64_t budget_bytes() const { return limits_.budget_bytes; }
  /// The part of the budget that the workspace has now beyond its own. Sequences run one after the other, so it is the
  /// most that one of them needs.
  uint64_t growth_bytes() const;
  uint64_t promised_bytes() const;  // of busy sequences
  uint64_t kept_bytes() const;      // of the others
  /// The same for the sequences that the caller sees.
  uint64_t promised_bytes(const Caller& caller) const;
  uint64_t kept_bytes(const Caller& caller) const;
  uint64_t n_evicted() const { return n_evicted_; }
  /// Changes whenever there may be more room than before, 1, 2, ...: what Acquire found no room for, it finds none for
  /// until then.
  uint64_t n_freed() const { return n_freed_; }

 private:
  MemoryPlan PlanOf(const SessionOptions& options) const;
  /// The bytes that the workspace needs beyond its own for windows larger, or more streaming heads, than the server's.
  uint64_t Growth(const SessionOptions& options) const;
  /// The bytes of a sequence, without that growth.
  uint64_t BytesOf(const SessionOptions& options, int64_t n_tokens) const;
  PooledSequence* Named(const SessionId& id);
  /// How many of the prompt's tokens, all but the last, the sequence can be gone on from with.
  int64_t Reusable(const PooledSequence& sequence, const Wanted& wanted) const;
  /// The sequence that has most of the prompt, and how much a session that goes on from it would hold.
  Claim BestPrefix(const Wanted& wanted);
  /// Gives up kept sequences until `bytes` more fit beside a workspace that has grown by at least `growth`; none of
  /// `keep`. False, and nothing is given up, when that cannot be.
  bool MakeRoom(uint64_t bytes, uint64_t growth, size_t n_more, const PooledSequence* keep);
  /// To be called when a sequence of this growth runs no more.
  void ShrinkWorkspace(uint64_t growth);
  Result<Claim> TakeOver(PooledSequence* sequence, const Wanted& wanted, int64_t pos);
  Result<Claim> Copy(const PooledSequence& from, const Wanted& wanted, int64_t pos);
  Result<Claim> Make(const Wanted& wanted);
  PooledSequence* Add(const Wanted& wanted, std::unique_ptr<Session> session, uint64_t bytes, uint64_t growth);

  const Model& model_;
  Workspace* workspace_;
  PoolLimits limits_;
  std::list<PooledSequence> sequences_;
  uint64_t clock_ = 0;
  uint64_t n_evicted_ = 0;
  uint64_t n_freed_ = 1;
};

}  // namespace duo
