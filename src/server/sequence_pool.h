// The sequences that a server holds, within one budget of memory. Busy ones belong to a request, a save or a restore.
// Idle ones are kept because later requests may reuse their prefixes.
//
// Exact answers. With ComputeType::kF32 an answer does not depend, to the last bit, on what the pool holds. The numbers
// of a prompt token depend on the chunk in which it is read: another number of tokens means another order of additions.
// So all chunks must be the same whether their beginnings are read or found in memory. Chunks therefore end at
// multiples of a piece (PieceTokens) and where rings are copied. A sequence is reused only up to such an end, and never
// beyond its first generated token.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "duo/session.h"
#include "server/cache_spec.h"
#include "server/session_id.h"

namespace duo {

/// Tokens of a piece. While other requests run, and always with ComputeType::kF32, prompts are read in pieces that end
/// at multiples of this.
int64_t PieceTokens(const SessionOptions& options);

enum class SequenceState : uint8_t {
  kIdle,     // without a request; may be reused or evicted
  kRunning,  // a request claimed it
  kLent,     // a thread saves or restores it; no other one may read it
};

/// One sequence. A busy one belongs to the request or thread that claimed it.
struct PooledSequence {
  std::unique_ptr<Session> session;  // null while it is being restored
  CacheSpec spec;
  SessionOptions options;  // resolved
  SessionId id;            // its owner, and the name of its session
  SequenceState state = SequenceState::kIdle;
  bool saved = false;   // its file holds all of it
  uint64_t bytes = 0;   // counted against the budget: the reservation while it runs or is restored, else what it holds
  uint64_t growth = 0;  // bytes that the workspace needs beyond its own size while this one runs
  int64_t longest = 0;  // tokens whose rows are in memory, even after a rewind
  uint64_t last_use = 0;  // grows with every use

  bool busy() const { return state != SequenceState::kIdle; }
};

struct PoolLimits {
  uint64_t budget_bytes = 0;     // for sequences, and for the growth of the workspace while they run
  uint64_t workspace_bytes = 0;  // the workspace's own size, which is not part of the budget
  size_t max_sequences = 64;     // each takes memory mappings, whose number the system limits
};

/// A sequence in memory that has a session's name.
struct NamedSequence {
  SessionId id;
  int64_t n_tokens = 0;
  uint64_t kv_bytes = 0;
  bool busy = false;
};

struct IdleSequence {
  SessionId id;
  int64_t n_tokens = 0;
  uint64_t kv_bytes = 0;
  double sparsity = 0;
};

/// The pool at one moment. A caller sees its own sequences, and their sums.
struct PoolStatus {
  std::vector<IdleSequence> idle;
  uint64_t reserved_bytes = 0;  // of busy sequences
  uint64_t idle_bytes = 0;      // of idle sequences
  /// The part of the budget that the workspace takes now beyond its own size, for all callers. Sequences run one after
  /// the other, so it is the max of what each of them needs.
  uint64_t growth_bytes = 0;
  uint64_t n_evicted = 0;  // since the start, for all callers
};

/// Thread safe, with one exception. Only the thread that runs the sequences may call Acquire, and Release and Drop for
/// what Acquire returned. The reason is that they may free memory of the workspace.
///
/// Each function is one step: no other thread sees a state between its beginning and its end. The pool's mutex is taken
/// last. A thread that holds the scheduler's mutex may call the pool, and the pool calls nothing that takes a mutex of
/// this room.
///
/// Invariants.
///   1. The `bytes` of all sequences and growth_bytes() together are at most budget_bytes. There are at most
///      max_sequences sequences.
///   2. `bytes` of a sequence that runs covers all tokens it may get, so its request never runs out of memory.
///   3. `growth` is 0 except while a sequence runs.
///   4. Only idle sequences are evicted or taken over. A prefix may be copied from one that runs, because Acquire is
///      called between two steps. A lent one is not read at all.
///   5. An owner has at most one sequence of each session name.
///   6. A prefix is reused only between sequences of the same owner and the same salt.
class SequencePool {
 public:
  /// `model` and `workspace` must outlive it.
  SequencePool(const Model& model, Workspace* workspace, const PoolLimits& limits);

  /// Fails with kResourceExhausted, and the bytes needed and available, when n_tokens would not fit even alone.
  Status CheckEverFits(const SessionOptions& options, int64_t n_tokens) const;

  struct Wanted {
    std::span<const int32_t> prompt;
    int64_t n_tokens = 0;  // of the prompt and of all that may be generated
    const CacheSpec* spec = nullptr;
    const SessionOptions* options = nullptr;  // resolved
    SessionId id;
    bool fresh = false;  // reuse nothing
  };
  struct Claim {
    PooledSequence* sequence = nullptr;
    int64_t n_held = 0;  // prompt tokens that it holds, always fewer than the prompt has
  };
  /// Returns a busy sequence with a reservation for n_tokens: one that shares a prefix with the prompt, a copy of such
  /// a one, or an empty one. Considers only sequences of the same owner and the same salt. So neither the time that a
  /// prompt takes nor its number of cached tokens tells what others asked.
  ///
  /// Evicts idle sequences to make room: least recently used ones first, named ones last.
  ///
  /// Fails with kUnavailable when busy sequences hold the memory, or the named session is busy (server/unavailable.h
  /// tells which). Fails with kInvalidArgument when the named session has another salt or other options.
  Result<Claim> Acquire(const Wanted& wanted);

  /// Release makes a claimed sequence idle. Drop removes it.
  void Release(PooledSequence* sequence);
  void Drop(PooledSequence* sequence);

  /// Lends an idle named sequence until Release or Drop. Fails with kNotFound, or with kUnavailable when it is busy
  /// already.
  Result<PooledSequence*> CheckOut(const SessionId& id);
  /// Lends a new sequence, which is about to be restored, with a reservation for n_tokens. The caller sets its session
  /// and then calls Release, or calls Drop. Fails with kUnavailable when memory does not suffice now,
  /// kResourceExhausted when it never will, and kInvalidArgument when the name is taken.
  Result<PooledSequence*> Reserve(const SessionId& id, const CacheSpec& spec, const SessionOptions& options,
                                  int64_t n_tokens);

  bool Has(const SessionId& id) const;
  bool IsBusy(const SessionId& id) const;
  std::vector<NamedSequence> Named() const;
  PoolStatus StatusFor(const Caller& caller) const;
  uint64_t budget_bytes() const { return limits_.budget_bytes; }
  /// A counter that changes whenever there may be more room than before. A request for which Acquire found no room
  /// finds none until it changes. Read it before Acquire: sequences may be released at any time.
  uint64_t n_freed() const;

 private:
  MemoryPlan PlanOf(const SessionOptions& options) const;
  /// Bytes that the workspace needs beyond its own size, for larger windows or more streaming heads than the server's.
  uint64_t Growth(const SessionOptions& options) const;
  /// Bytes of a sequence, without Growth.
  uint64_t BytesOf(const SessionOptions& options, int64_t n_tokens) const;
  PooledSequence* Find(const SessionId& id) DUO_REQUIRES(mutex_);
  uint64_t GrowthBytes() const DUO_REQUIRES(mutex_);
  uint64_t ReservedBytes(const Caller& caller) const DUO_REQUIRES(mutex_);
  uint64_t IdleBytes(const Caller& caller) const DUO_REQUIRES(mutex_);
  /// How many of the prompt's tokens the sequence can continue after. The last one never counts.
  int64_t Reusable(const PooledSequence& sequence, const Wanted& wanted) const;
  /// The sequence that holds most of the prompt, and how many tokens a session that continues from it would hold.
  Claim BestPrefix(const Wanted& wanted) DUO_REQUIRES(mutex_);
  /// Evicts idle sequences, but never `keep`, until `bytes` in `n_more` sequences fit beside a workspace that has grown
  /// by at least `growth`. Returns false and evicts nothing when that is impossible.
  bool MakeRoom(uint64_t bytes, uint64_t growth, size_t n_more, const PooledSequence* keep) DUO_REQUIRES(mutex_);
  /// Frees the workspace's growth when no other sequence needs as much. Call it after a sequence with this growth
  /// ended.
  void ShrinkWorkspace(uint64_t growth) DUO_REQUIRES(mutex_);
  /// The three ways to get a sequence for a request: one that goes on from `pos`, a copy up to `pos`, an empty one.
  Result<Claim> TakeOver(PooledSequence* sequence, const Wanted& wanted, int64_t pos) DUO_REQUIRES(mutex_);
  Result<Claim> Copy(const PooledSequence& from, const Wanted& wanted, int64_t pos) DUO_REQUIRES(mutex_);
  Result<Claim> CreateEmpty(const Wanted& wanted) DUO_REQUIRES(mutex_);
  PooledSequence* Add(const Wanted& wanted, SequenceState state, std::unique_ptr<Session> session, uint64_t bytes,
                      uint64_t growth) DUO_REQUIRES(mutex_);

  const Model& model_;
  Workspace* workspace_;
  const PoolLimits limits_;
  mutable Mutex mutex_;
  /// A list, so that pointers to busy sequences stay valid. The mutex guards the list and the members that say whose
  /// and how large a sequence is. The holder of a busy one reads and changes its session without it.
  std::list<PooledSequence> sequences_ DUO_GUARDED_BY(mutex_);
  uint64_t clock_ DUO_GUARDED_BY(mutex_) = 0;  // the last PooledSequence::last_use
  uint64_t n_evicted_ DUO_GUARDED_BY(mutex_) = 0;
  uint64_t n_freed_ DUO_GUARDED_BY(mutex_) = 0;
};

}  // namespace duo
