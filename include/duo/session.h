// One sequence of tokens and its split KV cache: prefill, decode, rewind, clone.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "duo/dtype.h"
#include "duo/head_pattern.h"
#include "duo/model.h"
#include "duo/progress.h"
#include "duo/result.h"

namespace duo {

struct SessionOptions {
  /// Which heads keep everything; empty (n_layers == 0) = all of them, full attention.
  HeadChoice heads;
  /// Tokens that streaming heads keep from the start. Raised to pinned_prefix when that is more.
  int64_t sink = 64;
  /// Last tokens that streaming heads see, the current one included; >= 1.
  int64_t recent = 256;
  /// The same for prompt tokens, >= recent (LServe, arXiv:2502.14866, runs 8192 in prefill and 256 in decode);
  /// 0 = recent.
  int64_t prefill_recent = 0;
  /// Tokens at the start that no head may forget, for example the system prompt (arXiv:2510.00231).
  int64_t pinned_prefix = 0;
  /// Tokens prefilled together, 1..65536. Larger is faster until matrix products are saturated, and needs memory for
  /// activations. The result does not depend on it.
  int64_t chunk = 512;
  ComputeType compute = ComputeType::kBF16;
  /// How K and V are kept. kInt8 and kInt4 take a little more than half and a quarter of kBF16's memory and time per
  /// token; docs/quality.md has what they cost, and why models whose keys have outliers (biases of Qwen2 and 2.5, norms
  /// of Qwen3) do not bear them.
  KvType kv_type = KvType::kBF16;
  /// Most tokens the sequence may have; 0 = the model's trained context. Reserves address space only.
  int64_t max_context = 0;
  /// Tokens between copies of the streaming heads' rings, which make Rewind cheap; 0 = no copies.
  int64_t snapshot_every = 0;
  /// Bytes that KV and activations may take; 0 = what the system has available when they are needed.
  uint64_t memory_limit = 0;
};

/// Where the memory of a configuration goes, known before anything is allocated.
struct MemoryPlan {
  uint64_t weights_bytes = 0;
  uint64_t kv_bytes_per_token = 0;   // retrieval heads
  uint64_t kv_fixed_bytes = 0;       // streaming heads
  uint64_t kv_page_bytes = 0;        // most that whole pages add, where a device gives no less
  uint64_t snapshot_bytes_each = 0;  // one ring snapshot, 0 without snapshots
  int64_t snapshot_every = 0;        // tokens
  uint64_t activation_bytes = 0;     // activations, scratch of attention and of the backend
  uint64_t scratch_bytes = 0;        // the part of activation_bytes that the backend holds once for all sessions

  uint64_t KvBytes(int64_t n_tokens) const;  // with snapshots
  uint64_t TotalBytes(int64_t n_tokens) const;
  /// Most tokens that fit `bytes` in all; 0 when not even the fixed parts do. INT64_MAX-free: at most 2^36.
  int64_t MaxContext(uint64_t bytes) const;
};

/// kInvalidArgument for options that contradict each other or the model.
Result<MemoryPlan> PlanMemory(const ModelConfig& config, uint64_t weights_bytes, const SessionOptions& options,
                              const Backend& backend);

/// Intermediate values of a call, for sessions of one model that take turns: they are large, and nothing in them
/// outlives a call. Not thread safe; must outlive its sessions, and the model must outlive it.
class Workspace {
 public:
  /// Only `chunk` and `compute` of the options count: sessions that use the workspace have the same compute and at most
  /// that chunk. Errors as Session::Create.
  static Result<Workspace> Create(const Model& model, const SessionOptions& options);
  Workspace(Workspace&&) noexcept;
  Workspace& operator=(Workspace&&) noexcept;
  ~Workspace();

  /// Gives back the memory that grew with the streaming windows of the sessions so far. The next prefill takes what its
  /// own session needs. Call it between steps.
  void ReleaseWindows();

 private:
  friend class Session;
  class Impl;
  explicit Workspace(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Not thread safe; the model must outlive it. Sessions that share a workspace may be made, saved and destroyed by one
/// thread while another runs others of them.
class Session {
 public:
  /// Without a workspace it has one of its own. kInvalidArgument (the sentence names the option), kResourceExhausted
  /// (bytes needed and available).
  static Result<Session> Create(const Model& model, const SessionOptions& options, Workspace* workspace = nullptr);
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  /// Adds prompt tokens, in chunks, and leaves the logits behind the last one in logits(). Callback after each chunk.
  /// kInvalidArgument: ids empty or outside the vocabulary. kResourceExhausted: the context or memory would not
  /// suffice; says how much would. These two leave the sequence as it was. kCancelled: the callback said stop.
  /// kInternal: the logits are NaN or infinite; says in which layer they begin, if it can be found. kUnavailable: a
  /// file of the model was written to (Model::CheckFiles). These and other errors leave the chunks so far in the
  /// sequence, and logits() empty.
  Status Prefill(std::span<const int32_t> ids, const ProgressCallback& progress = {});

  /// Adds one generated token; logits() then predicts its successor. Errors as Prefill.
  Status Decode(int32_t id);

  /// The most sequences that DecodeTogether takes.
  static constexpr int kMaxTogether = 16;

  /// Adds ids[i] to sessions[i] for all of them in one pass over the weights: sequences that generate at the same time.
  /// All are different, share one workspace and keep K and V as the same type; at most kMaxTogether and as many as a
  /// chunk has tokens. With ComputeType::kF32 the same numbers as Decode of each alone. Errors as Prefill; of
  /// kInvalidArgument and kResourceExhausted nothing has changed, unless all have grown and only their logits are
  /// missing. Where some logits are NaN or infinite (kInternal), all have grown, and those with logits() may go on.
  static Status DecodeTogether(std::span<Session* const> sessions, std::span<const int32_t> ids);

  /// Logits after the last token, [vocab], all finite. Valid until the next call that changes the sequence; empty
  /// before the first.
  std::span<const float> logits() const;

  /// Prefill that gives the logits of the tokens at positions [begin, end) (absolute) to `row`, in order. `row` gets
  /// position and [vocab] floats that are valid during the call, and returns an error to stop.
  using LogitsCallback = std::function<Status(int64_t pos, std::span<const float> logits)>;
  Status PrefillWithLogits(std::span<const int32_t> ids, int64_t begin, int64_t end, const LogitsCallback& row,
                           const ProgressCallback& progress = {});

  /// Final-norm hidden state of the last token, [hidden]. Valid and empty as logits().
  std::span<const float> last_hidden() const;

  /// Tokens [0, pos) stay, the rest is forgotten; unless pos == len(), logits() is empty until the next token. Exact:
  /// where the streaming heads' rings no longer hold what is needed, they are restored from a snapshot and at most
  /// snapshot_every tokens (without snapshots: all) are prefilled again; kCancelled then leaves a shorter sequence.
  Status Rewind(int64_t pos, const ProgressCallback& progress = {});

  /// Rewind that leaves running tokens again to the caller: tokens [0, result) stay, with result <= pos as large as
  /// rings and snapshots allow. Cheap. kInvalidArgument as Rewind.
  Result<int64_t> RewindToHeld(int64_t pos);

  /// How many tokens RewindToHeld(pos) would keep.
  int64_t HeldAt(int64_t pos) const;

  /// Forgets logits() and last_hidden() and gives back their memory: for sequences that are only kept.
  void DropLogits();

  /// How many of these tokens, from the first on, the sequence has in the same way: a sequence that was rewound there
  /// goes on as one that was given them as a prompt. (Generated tokens do not count where prompts see another window.)
  int64_t CommonPrefix(std::span<const int32_t> ids) const;

  /// Tokens before the first generated one.
  int64_t prompt_len() const;

  /// An independent copy of the sequence, with the same workspace where that is shared. kResourceExhausted.
  Result<Session> Clone() const;

  /// A copy of its first HeldAt(pos) tokens; without logits unless that is all of them. Errors as Clone and Rewind.
  Result<Session> ClonePrefix(int64_t pos) const;

  /// Writes the sequence to a file that appears when it is whole (docs/formats.md): tokens, K, V, snapshots; not the
  /// logits. `note`: up to 64 KiB of the caller's own, kept with it. Reads the sequence only. kIo names the reason.
  Status Save(const std::string& path, const std::string& note = "") const;

  /// A sequence as Save wrote it, for the same model with the same options (those of its cache: heads, windows, types,
  /// snapshots). kNotFound, kIo; kCorrupt when the file is damaged; kInvalidArgument when it is of another model,
  /// choice of heads or KV type, and says which; kResourceExhausted.
  static Result<Session> Load(const Model& model, const SessionOptions& options, const std::string& path,
                              Workspace* workspace = nullptr);

  /// Fails with kResourceExhausted when n_tokens more would not fit; the sentence has bytes needed, available, and the
  /// context that would fit.
  Status CheckFits(int64_t n_tokens) const;

  /// Advances the cache by n_tokens whose K and V are arbitrary finite values, without running the model: for measuring
  /// speed at a depth. Not for text. Errors as Prefill.
  Status FillSynthetic(int64_t n_tokens, uint64_t seed);

  int64_t len() const;
  const std::vector<int32_t>& tokens() const;  // all of them; synthetic ones are 0
  const SessionOptions& options() const;       // as resolved
  const MemoryPlan& plan() const;
  uint64_t kv_bytes() const;  // K, V and snapshots in use now

 private:
  class Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// What a file of Session::Save says about itself.
struct SessionFileInfo {
  std::string model_name;
  int64_t n_tokens = 0;
  uint64_t file_bytes = 0;
  std::string note;
};

/// Reads the beginning of the file only. kNotFound, kIo, kCorrupt.
Result<SessionFileInfo> ReadSessionFileInfo(const std::string& path);

}  // namespace duo
