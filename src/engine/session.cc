#include "duo/session.h"

#include <algorithm>
#include <string>
#include <utility>

#include "backend/backend.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/common_prefix.h"
#include "base/error.h"
#include "base/finite.h"
#include "base/memory_info.h"
#include "base/rng.h"
#include "engine/non_finite.h"
#include "engine/session_impl.h"
#include "engine/session_layout.h"

namespace duo {

Workspace::Workspace(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Workspace::Workspace(Workspace&&) noexcept = default;
Workspace& Workspace::operator=(Workspace&&) noexcept = default;
Workspace::~Workspace() = default;

Result<Workspace> Workspace::Create(const Model& model, const SessionOptions& options) {
  const ModelConfig& config = model.config();
  DUO_ASSIGN_OR_RETURN(const SessionOptions resolved, ResolveOptions(config, options));
  DUO_ASSIGN_OR_RETURN(Activations act, Activations::Create(model.backend(), config, resolved.chunk));
  return Workspace(std::make_unique<Impl>(model.weights(), resolved.chunk, resolved.compute, std::move(act)));
}

void Workspace::ReleaseWindows() { impl_->attention.ReleaseScratch(); }

Session::Session(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

Result<Session> Session::Create(const Model& model, const SessionOptions& options, Workspace* workspace) {
  const ModelConfig& config = model.config();
  DUO_ASSIGN_OR_RETURN(SessionOptions resolved, ResolveOptions(config, options));
  DUO_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(config, model.weights_bytes(), resolved, *model.backend()));
  // Memory that does not grow with the text. CheckFits looks at the rest when tokens arrive.
  const uint64_t fixed = (workspace == nullptr ? plan.activation_bytes : 0) + plan.KvBytes(0);
  const uint64_t available = resolved.memory_limit != 0 ? resolved.memory_limit : model.backend()->AvailableBytes();
  if (fixed > available) {
    return ResourceExhausted(
               "activations and streaming heads alone need {}, {} are available; a smaller chunk, sink or recent needs "
               "less",
               FormatBytes(fixed), FormatBytes(available))
        .About("chunk");
  }
  const KvLayout layout = LayoutOf(config, resolved);
  DUO_ASSIGN_OR_RETURN(SplitKvCache cache, SplitKvCache::Create(model.backend(), layout));
  std::unique_ptr<Workspace> own;
  if (workspace == nullptr) {
    DUO_ASSIGN_OR_RETURN(Workspace made, Workspace::Create(model, resolved));
    own = std::make_unique<Workspace>(std::move(made));
    workspace = own.get();
  }
  Workspace::Impl* work = workspace->impl_.get();
  // A shared workspace cannot grow: other sessions hold pointers to it.
  if (work->chunk < resolved.chunk || work->compute != resolved.compute) {
    return InvalidArgument("the shared workspace was made for another compute or for a smaller chunk");
  }
  if (own != nullptr) DUO_RETURN_IF_ERROR(work->attention.Fit(layout));  // a shared one fits at the first chunk
  return Session(
      std::make_unique<Impl>(model.weights(), std::move(resolved), plan, std::move(cache), std::move(own), work));
}

Status Session::Impl::CheckIds(std::span<const int32_t> ids) const {
  if (ids.empty()) return InvalidArgument("there are no tokens to run");
  return CheckTokenIds(ids, weights.config.vocab_size);
}

// The kernel counts weights that are mapped from files as available, because they are page cache. Decoding would crawl
// if KV pushed them out, so KV must leave their bytes free. Before the first chunk, nothing has touched the
// activations, rings and scratch, so the kernel still counts them as available. After it they are taken, and so are the
// rows up to the longest length so far, even after a rewind.
Status Session::Impl::CheckFits(int64_t n_tokens) const {
  if (n_tokens < 0) return InvalidArgument("{} tokens; expected 0 or more", n_tokens);
  const int64_t len = cache.len();
  if (n_tokens > options.max_context - len) {
    // The sentence says what the caller can do about it, which depends on where the limit comes from.
    const ModelConfig& c = weights.config;
    const bool at_limit = c.max_context > 0 && options.max_context == c.max_context;
    const bool trained = options.max_context == c.trained_context;
    const std::string advice = at_limit  ? "; this model does not allow more (" + c.max_context_reason + ")"
                               : trained ? " this model was trained for; a session may be given more with max_context"
                                         : "; a session may be given more with max_context";
    return ResourceExhausted("{} + {} tokens do not fit the context of {} tokens{}", len, n_tokens, options.max_context,
                             advice)
        .About("max_context");
  }
  const int64_t total = len + n_tokens;
  uint64_t taken = weights.total_bytes;  // the part of plan.TotalBytes that is no longer available
  const uint64_t available =
      MemoryBudget(options.memory_limit, weights.backend->AvailableBytes(), weights.mapped_bytes);
  if (options.memory_limit == 0 && cache.longest() > 0) taken = plan.TotalBytes(cache.longest());
  const uint64_t wanted = plan.TotalBytes(total);
  const uint64_t needed = wanted > taken ? wanted - taken : 0;
  if (needed <= available) return OkStatus();
  return ResourceExhausted(
             "{} tokens need {}, {} are available; {} tokens would fit; more streaming heads or a narrower type of K "
             "and V need less",
             total, FormatBytes(needed), FormatBytes(available), plan.MaxContext(available + taken))
      .About("memory_limit");
}

Status Session::Impl::RunChunks(std::span<const int32_t> ids, TokenKind kind, const ProgressCallback& progress,
                                const ChunkDone& chunk_done) {
  const auto begin = Clock::now();
  const auto total = std::ssize(ids);
  ForgetLast();  // an error in the middle must not leave the logits of another token
  for (int64_t done = 0; done < total;) {
    // A snapshot can only be taken between two chunks.
    const int64_t n = std::min({options.chunk, total - done, cache.TokensToSnapshot()});
    const int64_t pos = cache.len();
    const auto chunk = ids.subspan(done, n);
    DUO_RETURN_IF_ERROR(weights.CheckFilesNowAndThen());
    DUO_RETURN_IF_ERROR(work->transformer.Forward(chunk, kind, state()));
    // After each chunk, so that tokens and cache have the same length when a later chunk fails.
    tokens.insert(tokens.end(), chunk.begin(), chunk.end());
    kinds.insert(kinds.end(), chunk.size(), kind);
    if (chunk_done) DUO_RETURN_IF_ERROR(chunk_done(pos, n));
    done += n;
    if (progress && !progress({.stage = "prefill",
                               .done = done,
                               .total = total,
                               .unit = "tokens",
                               .seconds = SecondsSince(begin),
                               .memory_bytes = cache.bytes()})) {
      return Cancelled();
    }
  }
  return OkStatus();
}

// Copies the logits into the sequence, because the next session of the workspace overwrites the activations.
Status Session::Impl::KeepRow(int64_t row) {
  std::vector<float> values(weights.config.vocab_size);
  DUO_RETURN_IF_ERROR(work->transformer.Logits(work->activations, row, 1, values.data()));
  // NaN would make every sampler choose something arbitrary, so it is an error here.
  if (!AllFinite(values)) return NotFinite(tokens);
  logits = std::move(values);
  return OkStatus();
}

// Runs the tokens again layer by layer, because only then can it say which layer's weights are damaged.
Status Session::Impl::NotFinite(std::span<const int32_t> seen) const {
  return NonFiniteLogits(weights, &work->transformer, {nullptr, &work->attention, &work->activations}, options.kv_type,
                         seen);
}

// Keeps the vector's memory for the next token. DropLogits frees it.
void Session::Impl::ForgetLast() { logits.clear(); }

Status Session::Prefill(std::span<const int32_t> ids, const ProgressCallback& progress) {
  DUO_RETURN_IF_ERROR(impl_->CheckIds(ids));
  DUO_RETURN_IF_ERROR(impl_->CheckFits(std::ssize(ids)));
  // Backs the rows of the whole prompt, so that a lack of memory is noticed before the first chunk is computed.
  DUO_RETURN_IF_ERROR(impl_->cache.Expect(std::ssize(ids)));
  DUO_RETURN_IF_ERROR(impl_->RunChunks(ids, TokenKind::kPrompt, progress, {}));
  return impl_->KeepLast();
}

Status Session::Decode(int32_t id) {
  const std::span<const int32_t> ids(&id, 1);
  DUO_RETURN_IF_ERROR(impl_->CheckIds(ids));
  // Asking the system for its free memory costs more than a small model's step, so this is done only when the cache
  // grows.
  if (impl_->cache.GrowsWith(1) || len() + 1 > impl_->options.max_context) DUO_RETURN_IF_ERROR(impl_->CheckFits(1));
  // kGenerated: this token sees `recent` tokens, not the window of a prompt's tokens.
  DUO_RETURN_IF_ERROR(impl_->RunChunks(ids, TokenKind::kGenerated, {}, {}));
  return impl_->KeepLast();
}

Status Session::PrefillWithLogits(std::span<const int32_t> ids, int64_t begin, int64_t end, const LogitsCallback& row,
                                  const ProgressCallback& progress) {
  const int64_t first = len();
  DUO_RETURN_IF_ERROR(impl_->CheckIds(ids));
  DUO_RETURN_IF_ERROR(impl_->CheckFits(std::ssize(ids)));
  if (begin < first || end < begin || end > first + std::ssize(ids)) {
    return InvalidArgument("positions {}..{} are not within the tokens {}..{}", begin, end, first,
                           first + std::ssize(ids));
  }
  DUO_RETURN_IF_ERROR(impl_->cache.Expect(std::ssize(ids)));  // before anything is computed, as in Prefill
  // Rows of a large vocabulary take more memory than everything else of a chunk, so there are a few at a time.
  const int64_t vocab = impl_->weights.config.vocab_size;
  std::vector<float> rows(Activations::kLogitRows * vocab);
  const auto give_rows = [&](int64_t pos, int64_t n) -> Status {
    for (int64_t at = std::max(begin, pos); at < std::min(end, pos + n);) {
      const int64_t now = std::min({Activations::kLogitRows, impl_->options.chunk, std::min(end, pos + n) - at});
      DUO_RETURN_IF_ERROR(impl_->work->transformer.Logits(impl_->work->activations, at - pos, now, rows.data()));
      for (int64_t r = 0; r < now; ++r) {
        const auto logits = std::span<const float>(rows).subspan(r * vocab, vocab);
        // In a chunk with a NaN, earlier tokens may have NaN too (0 * NaN in a tile). So the whole chunk is searched
        // for its origin.
        if (!AllFinite(logits)) return impl_->NotFinite(impl_->tokens);
        DUO_RETURN_IF_ERROR(row(at + r, logits));
      }
      at += now;
    }
    return OkStatus();
  };
  DUO_RETURN_IF_ERROR(impl_->RunChunks(ids, TokenKind::kPrompt, progress, give_rows));
  // The calls above check once a second, so they may have missed a change in the last second.
  DUO_RETURN_IF_ERROR(impl_->weights.CheckFiles(Checkpoint::Replaced::kIsFine));
  return impl_->KeepLast();
}

Status Session::Impl::CheckPosition(int64_t pos) const {
  if (pos >= 0 && pos <= cache.len()) return OkStatus();
  return InvalidArgument("position {}; expected 0..{}", pos, cache.len());
}

Status Session::Rewind(int64_t pos, const ProgressCallback& progress) {
  DUO_RETURN_IF_ERROR(impl_->CheckPosition(pos));
  if (pos == len()) return OkStatus();
  impl_->ForgetLast();
  const int64_t from = impl_->cache.Rewind(pos);
  // Prefills the lost tokens again, in runs of one kind, because prompt and generated tokens see different windows.
  const std::vector<int32_t> again(impl_->tokens.begin() + from, impl_->tokens.begin() + pos);
  const std::vector<TokenKind> kinds(impl_->kinds.begin() + from, impl_->kinds.begin() + pos);
  impl_->tokens.resize(from);
  impl_->kinds.resize(from);
  for (size_t begin = 0; begin < again.size();) {
    size_t end = begin + 1;
    while (end < again.size() && kinds[end] == kinds[begin]) ++end;
    const auto run = std::span<const int32_t>(again).subspan(begin, end - begin);
    DUO_RETURN_IF_ERROR(impl_->RunChunks(run, kinds[begin], progress, {}));
    begin = end;
  }
  // Whether there are logits must not depend on whether tokens were prefilled again.
  impl_->ForgetLast();
  return OkStatus();
}

// A server runs the lost tokens and those of a new prompt in one prefill, so they are not prefilled here.
Result<int64_t> Session::RewindToHeld(int64_t pos) {
  DUO_RETURN_IF_ERROR(impl_->CheckPosition(pos));
  if (pos == len()) return pos;
  impl_->ForgetLast();
  const int64_t held = impl_->cache.Rewind(pos);
  impl_->tokens.resize(held);
  impl_->kinds.resize(held);
  return held;
}

int64_t Session::HeldAt(int64_t pos) const { return impl_->cache.HeldAt(pos); }

// An assignment, because clear() would keep the memory.
void Session::DropLogits() { impl_->logits = {}; }

int64_t Session::CommonPrefix(std::span<const int32_t> ids) const {
  const int64_t n = duo::CommonPrefix(impl_->tokens, ids);
  // K and V of generated tokens were computed with another window than those of a prompt.
  return impl_->options.prefill_recent == impl_->options.recent ? n : std::min(n, prompt_len());
}

int64_t Session::prompt_len() const {
  const auto generated = std::find(impl_->kinds.begin(), impl_->kinds.end(), TokenKind::kGenerated);
  return generated - impl_->kinds.begin();
}

Result<Session> Session::Clone() const { return ClonePrefix(len()); }

Result<Session> Session::ClonePrefix(int64_t pos) const {
  DUO_RETURN_IF_ERROR(impl_->CheckPosition(pos));
  const bool shared = impl_->own == nullptr;
  const int64_t held = HeldAt(pos);
  const uint64_t needed = impl_->plan.KvBytes(held) + (shared ? 0 : impl_->plan.activation_bytes);
  const uint64_t available = impl_->weights.backend->AvailableBytes();
  if (needed > available) {
    return ResourceExhausted("a copy of the sequence needs {}, {} are available", FormatBytes(needed),
                             FormatBytes(available));
  }
  DUO_ASSIGN_OR_RETURN(SplitKvCache cache, impl_->cache.ClonePrefix(pos));
  // Sessions with workspaces of their own may run on different threads, so the copy gets its own too.
  std::unique_ptr<Workspace> own;
  Workspace::Impl* work = impl_->work;
  if (!shared) {
    DUO_ASSIGN_OR_RETURN(Activations act,
                         Activations::Create(impl_->weights.backend, impl_->weights.config, work->chunk));
    own.reset(
        new Workspace(std::make_unique<Workspace::Impl>(impl_->weights, work->chunk, work->compute, std::move(act))));
    work = own->impl_.get();
    DUO_RETURN_IF_ERROR(work->attention.Fit(cache.layout()));
  }
  auto copy =
      std::make_unique<Impl>(impl_->weights, impl_->options, impl_->plan, std::move(cache), std::move(own), work);
  copy->tokens.assign(impl_->tokens.begin(), impl_->tokens.begin() + held);
  copy->kinds.assign(impl_->kinds.begin(), impl_->kinds.begin() + held);
  if (held == len()) copy->logits = impl_->logits;
  return Session(std::move(copy));
}

Result<std::vector<SplitKvCache*>> Session::Impl::CachesTogether(std::span<Session* const> sessions,
                                                                 std::span<const int32_t> ids) {
  if (sessions.empty() || sessions.size() != ids.size() || std::ssize(sessions) > kMaxTogether) {
    return InvalidArgument("{} sequences and {} tokens; expected equal numbers in 1..{}", sessions.size(), ids.size(),
                           kMaxTogether);
  }
  const Impl& first = *sessions.front()->impl_;
  if (std::ssize(sessions) > first.work->chunk) {
    return InvalidArgument("there are more sequences than tokens in a chunk");
  }
  DUO_RETURN_IF_ERROR(first.weights.CheckFilesNowAndThen());
  std::vector<SplitKvCache*> caches;
  for (size_t i = 0; i < sessions.size(); ++i) {
    Impl* impl = sessions[i]->impl_.get();
    if (impl->work != first.work) {
      return InvalidArgument("sequences that are decoded together must share a workspace");
    }
    // One cache cannot take two tokens at one position.
    if (std::find(caches.begin(), caches.end(), &impl->cache) != caches.end()) {
      return InvalidArgument("a sequence was given twice");
    }
    // One call of attention reads rows of one type.
    if (impl->options.kv_type != first.options.kv_type) {
      return InvalidArgument("sequences that are decoded together must have the same type of K and V");
    }
    DUO_RETURN_IF_ERROR(impl->CheckIds(ids.subspan(i, 1)));
    if (impl->cache.GrowsWith(1)) DUO_RETURN_IF_ERROR(impl->CheckFits(1));
    caches.push_back(&impl->cache);
  }
  return caches;
}

Status Session::DecodeTogether(std::span<Session* const> sessions, std::span<const int32_t> ids) {
  DUO_ASSIGN_OR_RETURN(const std::vector<SplitKvCache*> caches, Impl::CachesTogether(sessions, ids));
  Workspace::Impl* work = sessions.front()->impl_->work;
  // After the checks, because they must leave everything as it was.
  for (Session* session : sessions) session->impl_->ForgetLast();
  DUO_RETURN_IF_ERROR(work->transformer.ForwardTogether(ids, caches, &work->attention, &work->activations));
  const auto n = std::ssize(ids);
  const int64_t vocab = sessions.front()->impl_->weights.config.vocab_size;
  std::vector<float> rows(n * vocab);
  // The caches have grown, so the tokens must too, even when the logits fail below.
  for (size_t i = 0; i < sessions.size(); ++i) {
    Impl* impl = sessions[i]->impl_.get();
    impl->tokens.push_back(ids[i]);
    impl->kinds.push_back(TokenKind::kGenerated);
  }
  DUO_RETURN_IF_ERROR(work->transformer.Logits(work->activations, 0, n, rows.data()));
  Impl* bad = nullptr;  // the first session whose logits are not finite; the others continue
  for (size_t i = 0; i < sessions.size(); ++i) {
    Impl* impl = sessions[i]->impl_.get();
    const auto row = std::span<const float>(rows).subspan(i * vocab, vocab);
    if (!AllFinite(row)) {
      if (bad == nullptr) bad = impl;
      continue;
    }
    impl->logits.assign(row.begin(), row.end());
  }
  if (bad != nullptr) return bad->NotFinite(bad->tokens);
  return OkStatus();
}

Status Session::CheckFits(int64_t n_tokens) const { return impl_->CheckFits(n_tokens); }

Status Session::FillSynthetic(int64_t n_tokens, uint64_t seed) {
  DUO_RETURN_IF_ERROR(impl_->CheckFits(n_tokens));
  DUO_RETURN_IF_ERROR(impl_->cache.FillSynthetic(n_tokens, seed));
  // Any id of the vocabulary will do: nobody reads these tokens.
  impl_->tokens.resize(impl_->tokens.size() + n_tokens, 0);
  impl_->kinds.resize(impl_->tokens.size(), TokenKind::kPrompt);
  impl_->ForgetLast();
  return OkStatus();
}

std::span<const float> Session::logits() const { return impl_->logits; }
int64_t Session::len() const { return impl_->cache.len(); }
const std::vector<int32_t>& Session::tokens() const { return impl_->tokens; }
const SessionOptions& Session::options() const { return impl_->options; }
const MemoryPlan& Session::plan() const { return impl_->plan; }
uint64_t Session::kv_bytes() const { return impl_->cache.bytes(); }

}  // namespace duo
