#include "server/sequence_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/memory_info.h"
#include "server/unavailable.h"

namespace duo {
namespace {

// Reusing fewer tokens than this is not worth a copy.
constexpr int64_t kMinCopied = 64;
// A text waits for at most one piece of another request's prompt. Matrix products of fewer tokens are less efficient.
constexpr int64_t kPieceTokens = 128;

/// The last position <= pos at which a chunk of a prompt ends.
int64_t LastChunkEnd(const SessionOptions& options, int64_t pos) {
  const auto last_multiple = [&](int64_t of) { return of == 0 ? 0 : pos / of * of; };
  return std::max(last_multiple(PieceTokens(options)), last_multiple(options.snapshot_every));
}

/// Bytes of a session outside its cache: logits while it runs, and the tokens' ids and kinds.
uint64_t HostBytes(const ModelConfig& config, int64_t n_tokens) {
  return config.vocab_size * sizeof(float) + n_tokens * (sizeof(int32_t) + 1);
}

Status InUse(const std::string& name) {
  return NotNow(Unavailable::kSessionBusy, fmt::format("the session \"{}\" is in use", name));
}

Status NoRoomNow(uint64_t bytes) {
  return NotNow(Unavailable::kNoMemory,
                fmt::format("running requests hold the memory that the sequence needs ({})", FormatBytes(bytes)));
}

}  // namespace

int64_t PieceTokens(const SessionOptions& options) { return std::min(kPieceTokens, options.chunk); }

SequencePool::SequencePool(const Model& model, Workspace* workspace, const PoolLimits& limits)
    : model_(model), workspace_(workspace), limits_(limits) {}

// The memory of a sequence follows from its options alone, so these functions need no mutex.

MemoryPlan SequencePool::PlanOf(const SessionOptions& options) const {
  const auto plan = PlanMemory(model_.config(), 0, options, *model_.backend());
  DUO_CHECK(plan.ok(), "resolved options have a plan");
  return *plan;
}

uint64_t SequencePool::Growth(const SessionOptions& options) const {
  const uint64_t wanted = PlanOf(options).activation_bytes;
  return wanted > limits_.workspace_bytes ? wanted - limits_.workspace_bytes : 0;
}

uint64_t SequencePool::BytesOf(const SessionOptions& options, int64_t n_tokens) const {
  return PlanOf(options).KvBytes(n_tokens) + HostBytes(model_.config(), n_tokens);
}

Status SequencePool::CheckEverFits(const SessionOptions& options, int64_t n_tokens) const {
  const uint64_t needed = BytesOf(options, n_tokens) + Growth(options);
  if (needed <= limits_.budget_bytes) return OkStatus();
  return ResourceExhausted(
      "{} tokens need {}, but this server has {} for sequences; use a higher sparsity or fewer tokens", n_tokens,
      FormatBytes(needed), FormatBytes(limits_.budget_bytes));
}

// The sums are computed, not kept: there are few sequences, and a sum that is never stored cannot be wrong.

uint64_t SequencePool::ReservedBytes(const Caller& caller) const {
  uint64_t bytes = 0;
  for (const PooledSequence& s : sequences_) bytes += s.busy() && caller.Sees(s.id.owner) ? s.bytes : 0;
  return bytes;
}

uint64_t SequencePool::IdleBytes(const Caller& caller) const {
  uint64_t bytes = 0;
  for (const PooledSequence& s : sequences_) bytes += !s.busy() && caller.Sees(s.id.owner) ? s.bytes : 0;
  return bytes;
}

uint64_t SequencePool::GrowthBytes() const {
  uint64_t most = 0;  // and not the sum: the sequences share one workspace
  for (const PooledSequence& s : sequences_) most = std::max(most, s.growth);
  return most;
}

PooledSequence* SequencePool::Find(const SessionId& id) {
  for (PooledSequence& s : sequences_) {
    if (!id.name.empty() && s.id == id) return &s;
  }
  return nullptr;
}

// The answers of Has and IsBusy may be out of date when the caller reads them. Acquire, CheckOut and Reserve check
// again.

bool SequencePool::Has(const SessionId& id) const {
  MutexLock lock(&mutex_);
  return std::any_of(sequences_.begin(), sequences_.end(), [&](const PooledSequence& s) { return s.id == id; });
}

bool SequencePool::IsBusy(const SessionId& id) const {
  MutexLock lock(&mutex_);
  return !id.name.empty() && std::any_of(sequences_.begin(), sequences_.end(),
                                         [&](const PooledSequence& s) { return s.id == id && s.busy(); });
}

uint64_t SequencePool::n_freed() const {
  MutexLock lock(&mutex_);
  return n_freed_;
}

std::vector<NamedSequence> SequencePool::Named() const {
  MutexLock lock(&mutex_);
  std::vector<NamedSequence> named;
  for (const PooledSequence& s : sequences_) {
    if (s.id.name.empty()) continue;
    // The holder of a busy sequence may be changing its session, so only what the mutex guards is read.
    named.push_back({.id = s.id,
                     .n_tokens = s.busy() ? s.longest : s.session->len(),
                     .kv_bytes = s.busy() ? s.bytes : s.session->kv_bytes(),
                     .busy = s.busy()});
  }
  return named;
}

PoolStatus SequencePool::StatusFor(const Caller& caller) const {
  MutexLock lock(&mutex_);
  PoolStatus status{.idle = {},
                    .reserved_bytes = ReservedBytes(caller),
                    .idle_bytes = IdleBytes(caller),
                    .growth_bytes = GrowthBytes(),
                    .n_evicted = n_evicted_};
  for (const PooledSequence& s : sequences_) {
    if (s.busy() || !caller.Sees(s.id.owner)) continue;
    status.idle.push_back({.id = s.id,
                           .n_tokens = s.session->len(),
                           .kv_bytes = s.session->kv_bytes(),
                           .sparsity = SparsityOf(s.options.heads)});
  }
  return status;
}

bool SequencePool::MakeRoom(uint64_t bytes, uint64_t growth, size_t n_more, const PooledSequence* keep) {
  const Caller all{.owner = "", .sees_all = true};
  // The workspace counts once, at the largest size that any running sequence needs.
  bytes += std::max(growth, GrowthBytes());
  const uint64_t fixed = ReservedBytes(all) + (keep != nullptr && !keep->busy() ? keep->bytes : 0);
  const size_t n_fixed = std::count_if(sequences_.begin(), sequences_.end(),
                                       [&](const PooledSequence& s) { return s.busy() || &s == keep; });
  // First the case in which even evicting everything would not help: then nothing is evicted.
  if (fixed + bytes > limits_.budget_bytes || n_fixed + n_more > limits_.max_sequences) return false;
  while (ReservedBytes(all) + IdleBytes(all) + bytes > limits_.budget_bytes ||
         sequences_.size() + n_more > limits_.max_sequences) {
    auto victim = sequences_.end();
    for (auto s = sequences_.begin(); s != sequences_.end(); ++s) {
      if (s->busy() || &*s == keep) continue;
      // A client that named a session counts on it, so named ones go last.
      const auto rank = [](const PooledSequence& x) { return std::make_pair(!x.id.name.empty(), x.last_use); };
      if (victim == sequences_.end() || rank(*s) < rank(*victim)) victim = s;
    }
    DUO_CHECK(victim != sequences_.end(), "there is an idle sequence to evict");
    // n_freed_ does not change: the caller takes this room at once.
    sequences_.erase(victim);
    ++n_evicted_;
  }
  return true;
}

int64_t SequencePool::Reusable(const PooledSequence& sequence, const Wanted& wanted) const {
  if (wanted.fresh) return 0;
  const Session& session = *sequence.session;
  // At least one token must be run, for its logits.
  int64_t pos = session.HeldAt(session.CommonPrefix(wanted.prompt.first(wanted.prompt.size() - 1)));
  if (sequence.options.compute != ComputeType::kF32) return pos;
  // Exact answers: the position must be the end of a chunk, and the rings must reach back to it. Each of the two may
  // lie before the other, so they take turns until they agree.
  pos = std::min(pos, session.prompt_len());
  while (pos > 0) {
    const int64_t end = LastChunkEnd(sequence.options, pos);
    pos = session.HeldAt(end);
    if (pos == end) break;
  }
  return pos;
}

SequencePool::Claim SequencePool::BestPrefix(const Wanted& wanted) {
  Claim best;
  for (PooledSequence& s : sequences_) {
    if (s.state == SequenceState::kLent) continue;  // another thread may be changing it
    if (s.id.owner != wanted.id.owner || s.spec.salt != wanted.spec->salt) continue;
    if (!SameCache(s.options, *wanted.options)) continue;
    const int64_t held = Reusable(s, wanted);
    // If a busy and an idle sequence hold equally much, the idle one is better: it may not have to be copied.
    const bool better = held > best.n_held || (held == best.n_held && held > 0 && best.sequence->busy() && !s.busy());
    if (better) best = {&s, held};
  }
  return best;
}

// Only the thread that runs the sequences ends one with growth, and it does so between steps. So the workspace is not
// in use now.
void SequencePool::ShrinkWorkspace(uint64_t growth) {
  if (growth > GrowthBytes()) workspace_->ReleaseWindows();
}

PooledSequence* SequencePool::Add(const Wanted& wanted, SequenceState state, std::unique_ptr<Session> session,
                                  uint64_t bytes, uint64_t growth) {
  sequences_.push_back({.session = std::move(session),
                        .spec = *wanted.spec,
                        .options = *wanted.options,
                        .id = wanted.id,
                        .state = state,
                        .saved = false,
                        .bytes = bytes,
                        .growth = growth,
                        .longest = 0,
                        .last_use = ++clock_});
  return &sequences_.back();
}

Result<SequencePool::Claim> SequencePool::TakeOver(PooledSequence* sequence, const Wanted& wanted, int64_t pos) {
  // Rows that were used once stay in memory after a rewind.
  const uint64_t bytes = BytesOf(*wanted.options, std::max(wanted.n_tokens, sequence->longest));
  // Its own bytes are in the budget already, so only the difference must fit.
  const uint64_t more = bytes > sequence->bytes ? bytes - sequence->bytes : 0;
  const uint64_t growth = Growth(*wanted.options);
  if (!MakeRoom(more, growth, 0, sequence)) return NoRoomNow(more);
  DUO_ASSIGN_OR_RETURN(const int64_t held, sequence->session->RewindToHeld(pos));
  sequence->state = SequenceState::kRunning;
  sequence->saved = false;  // its file, if there is one, no longer holds all of it
  sequence->id = wanted.id;
  sequence->spec = *wanted.spec;
  sequence->bytes = bytes;
  sequence->growth = growth;
  sequence->last_use = ++clock_;
  return Claim{sequence, held};
}

Result<SequencePool::Claim> SequencePool::Copy(const PooledSequence& from, const Wanted& wanted, int64_t pos) {
  const uint64_t bytes = BytesOf(*wanted.options, wanted.n_tokens);
  const uint64_t growth = Growth(*wanted.options);
  // `from` may be idle. It must not be evicted to make room for its own copy.
  if (!MakeRoom(bytes, growth, 1, &from)) return NoRoomNow(bytes);
  DUO_ASSIGN_OR_RETURN(Session copy, from.session->ClonePrefix(pos));
  const int64_t held = copy.len();
  return Claim{Add(wanted, SequenceState::kRunning, std::make_unique<Session>(std::move(copy)), bytes, growth), held};
}

Result<SequencePool::Claim> SequencePool::CreateEmpty(const Wanted& wanted) {
  const uint64_t bytes = BytesOf(*wanted.options, wanted.n_tokens);
  const uint64_t growth = Growth(*wanted.options);
  if (!MakeRoom(bytes, growth, 1, nullptr)) return NoRoomNow(bytes);
  DUO_ASSIGN_OR_RETURN(Session session, Session::Create(model_, *wanted.options, workspace_));
  return Claim{Add(wanted, SequenceState::kRunning, std::make_unique<Session>(std::move(session)), bytes, growth), 0};
}

// Taking a sequence over loses its text after the common prefix. Where that is most of the text, the prefix is copied
// instead if there is room. A sequence that runs or has a name of its own is never taken over, only copied.
Result<SequencePool::Claim> SequencePool::Acquire(const Wanted& wanted) {
  MutexLock lock(&mutex_);
  // A session in memory goes on from its own text, even where another sequence holds more of the prompt.
  if (PooledSequence* named = Find(wanted.id); named != nullptr) {
    if (named->busy()) return InUse(wanted.id.name);
    if (named->spec.salt != wanted.spec->salt) {
      return InvalidArgument(
                 "the session \"{}\" was started with another cache_salt; send that one, or delete the session",
                 wanted.id.name)
          .About("duo.cache");
    }
    if (!SameCache(named->options, *wanted.options)) {
      return InvalidArgument(
                 "the session \"{}\" has another pattern, sparsity, sink or recent; send the same values, or delete "
                 "the "
                 "session",
                 wanted.id.name)
          .About("duo.cache");
    }
    return TakeOver(named, wanted, Reusable(*named, wanted));
  }
  const Claim best = wanted.fresh ? Claim() : BestPrefix(wanted);
  if (best.sequence != nullptr && best.n_held > 0) {
    PooledSequence* s = best.sequence;
    const bool mostly_shared = 2 * best.n_held >= s->session->len();
    const bool free = !s->busy() && s->id.name.empty();
    if (free && mostly_shared) return TakeOver(s, wanted, best.n_held);
    if (best.n_held >= kMinCopied) {
      Result<Claim> copy = Copy(*s, wanted, best.n_held);
      if (copy.ok()) return copy;
      // There is no room for both. Losing the end is better than reading the beginning again.
      if (free) return TakeOver(s, wanted, best.n_held);
    }
  }
  return CreateEmpty(wanted);
}

void SequencePool::Release(PooledSequence* sequence) {
  MutexLock lock(&mutex_);
  // The reservation shrinks to the rows in memory: an idle sequence gets no more tokens.
  sequence->session->DropLogits();
  sequence->longest = std::max(sequence->longest, sequence->session->len());
  sequence->state = SequenceState::kIdle;
  sequence->bytes = BytesOf(sequence->options, sequence->longest);
  sequence->last_use = ++clock_;
  ++n_freed_;
  // Its growth must be 0 before ShrinkWorkspace compares it with that of the others.
  ShrinkWorkspace(std::exchange(sequence->growth, 0));
}

void SequencePool::Drop(PooledSequence* sequence) {
  MutexLock lock(&mutex_);
  // The workspace shrinks after the sequence is gone, because its own growth must not count any more.
  const uint64_t growth = sequence->growth;
  sequences_.remove_if([&](const PooledSequence& s) { return &s == sequence; });
  ++n_freed_;
  ShrinkWorkspace(growth);
}

Result<PooledSequence*> SequencePool::CheckOut(const SessionId& id) {
  MutexLock lock(&mutex_);
  PooledSequence* sequence = Find(id);
  if (sequence == nullptr) return NotFound("there is no session \"{}\" in memory", id.name);
  if (sequence->busy()) return InUse(id.name);
  // Its bytes stay as they are, because a save needs no further memory.
  sequence->state = SequenceState::kLent;
  return sequence;
}

Result<PooledSequence*> SequencePool::Reserve(const SessionId& id, const CacheSpec& spec, const SessionOptions& options,
                                              int64_t n_tokens) {
  MutexLock lock(&mutex_);
  if (Find(id) != nullptr) return InvalidArgument("the session \"{}\" is in memory already", id.name);
  DUO_RETURN_IF_ERROR(CheckEverFits(options, n_tokens));
  const uint64_t bytes = BytesOf(options, n_tokens);
  // A restore runs no tokens, so the workspace does not grow.
  if (!MakeRoom(bytes, 0, 1, nullptr)) return NoRoomNow(bytes);
  return Add({.prompt = {}, .n_tokens = n_tokens, .spec = &spec, .options = &options, .id = id, .fresh = false},
             SequenceState::kLent, nullptr, bytes, 0);
}

}  // namespace duo
