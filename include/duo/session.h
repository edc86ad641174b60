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
  /// The heads that keep the whole context; empty (n_layers == 0) = all of them, full attention.
  HeadChoice heads;
  /// First tokens that streaming heads keep. Raised to pinned_prefix when that is more.
  int64_t sink = 64;
  /// Last tokens that streaming heads see, the current one included; >= 1.
  int64_t recent = 256;
  /// Last tokens that streaming heads see from a prompt token, >= recent; 0 = recent. LServe (arXiv:2502.14866) uses
  /// 8192 for prefill and 256 for decode.
  int64_t prefill_recent = 0;
  /// First tokens that every head keeps, for example the system prompt (arXiv:2510.00231).
  int64_t pinned_prefix = 0;
  /// Prompt tokens that go through the model at once, 1..65536. A larger chunk is faster until matrix products are
  /// saturated, and needs more memory for activations. The result does not depend on it.
  int64_t chunk = 512;
  ComputeType compute = ComputeType::kBF16;
  /// Element type of K and V. Per token, kInt8 takes a little more than half of kBF16's memory and time, and kInt4 a
  /// little more than a quarter. The page docs/quality.md has their loss in quality. It also says why they do not suit
  /// models whose keys have outliers (biases of Qwen2 and Qwen2.5, norms of Qwen3).
  KvType kv_type = KvType::kBF16;
  /// Maximum length of the sequence in tokens; 0 = the model's trained context. Reserves address space, not memory.
  int64_t max_context = 0;
  /// Tokens between snapshots, which are copies of the streaming heads' rings that make Rewind cheap; 0 = no snapshots.
  int64_t snapshot_every = 0;
  /// Maximum bytes of KV and activations; 0 = what the system has available when they are needed.
  uint64_t memory_limit = 0;
};

/// Where the memory of a configuration goes, known before anything is allocated.
struct MemoryPlan {
  uint64_t weights_bytes = 0;
  uint64_t kv_bytes_per_token = 0;   // retrieval heads
  uint64_t kv_fixed_bytes = 0;       // streaming heads
  uint64_t kv_page_bytes = 0;        // upper bound of what rounding to a device's pages adds; 0 on the CPU
  uint64_t snapshot_bytes_each = 0;  // one snapshot of the rings; 0 without snapshots
  int64_t snapshot_every = 0;        // tokens
  uint64_t activation_bytes = 0;     // activations, scratch of attention and of the backend
  uint64_t scratch_bytes = 0;        // the part of activation_bytes that the backend has once for all sessions

  uint64_t KvBytes(int64_t n_tokens) const;  // with snapshots
  uint64_t TotalBytes(int64_t n_tokens) const;
  /// The largest number of tokens for which everything fits in `bytes`, at most 2^36; 0 when not even the fixed parts
  /// fit.
  int64_t MaxContext(uint64_t bytes) const;
};

/// Fills in the defaults, as Session::Create does. Returns kInvalidArgument, with the option's name as its subject, if
/// the options contradict each other or the model.
Result<SessionOptions> ResolveOptions(const ModelConfig& config, const SessionOptions& given);

/// Errors as ResolveOptions.
Result<MemoryPlan> PlanMemory(const ModelConfig& config, uint64_t weights_bytes, const SessionOptions& options,
                              const Backend& backend);

/// Memory for the intermediate values of a call. They are large and none of them outlives the call, so sessions of one
/// model that take turns may share a workspace. Not thread safe. It must outlive its sessions, and the model must
/// outlive it.
class Workspace {
 public:
  /// Uses only `chunk` and `compute` of the options. Sessions that share the workspace have the same compute and at
  /// most this chunk. Errors as Session::Create.
  static Result<Workspace> Create(const Model& model, const SessionOptions& options);
  Workspace(Workspace&&) noexcept;
  Workspace& operator=(Workspace&&) noexcept;
  ~Workspace();

  /// Frees the memory that grew with the streaming windows of the sessions so far. The next prefill allocates what its
  /// own session needs. Call it between steps.
  void ReleaseWindows();

 private:
  friend class Session;
  class Impl;
  explicit Workspace(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Not thread safe. The model must outlive it. One thread may create, save and destroy sessions of a shared workspace
/// while another thread runs other sessions of it.
class Session {
 public:
  /// Without `workspace` the session makes its own. Returns kInvalidArgument with the option's name, or
  /// kResourceExhausted with the bytes needed and available.
  static Result<Session> Create(const Model& model, const SessionOptions& options, Workspace* workspace = nullptr);
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  /// Adds prompt tokens in chunks and calls `progress` after each chunk. Then logits() predicts the token after the
  /// last one.
  ///
  /// Returns kInvalidArgument if `ids` is empty or has an id outside the vocabulary. Returns kResourceExhausted if the
  /// context or the memory would not suffice; the sentence says how much would. These two leave the sequence as it was.
  ///
  /// Returns kCancelled if the callback returned false, and kUnavailable if a file of the model was written to
  /// (Model::CheckFiles). Returns kInternal if the logits are NaN or infinite; the sentence names the layer where they
  /// begin, if it can be found. These and all other errors leave the finished chunks in the sequence and logits()
  /// empty.
  Status Prefill(std::span<const int32_t> ids, const ProgressCallback& progress = {});

  /// Adds one generated token. Then logits() predicts the token after it. Errors as Prefill.
  Status Decode(int32_t id);

  /// Maximum number of sequences for DecodeTogether.
  static constexpr int kMaxTogether = 16;

  /// Adds ids[i] to sessions[i] for every i in one pass over the weights, for sequences that generate at the same time.
  /// The sessions are distinct, share one workspace and have the same kv_type. There are at most kMaxTogether of them,
  /// and no more than the workspace's chunk. With ComputeType::kF32 each session gets the same numbers as from its own
  /// Decode.
  ///
  /// Errors as Prefill. After kInvalidArgument and kResourceExhausted, either nothing has changed, or all sessions have
  /// grown and only their logits are missing. After kInternal (some logits are NaN or infinite) all have grown, and
  /// those with logits() may continue.
  static Status DecodeTogether(std::span<Session* const> sessions, std::span<const int32_t> ids);

  /// Logits after the last token, [vocab], all finite; empty before the first token. Valid until the next call that
  /// changes the sequence.
  std::span<const float> logits() const;

  /// Like Prefill, and calls `row` with the logits at each absolute position in [begin, end), in order. `row` gets the
  /// position and [vocab] floats, which are valid during the call. It returns an error to stop.
  using LogitsCallback = std::function<Status(int64_t pos, std::span<const float> logits)>;
  Status PrefillWithLogits(std::span<const int32_t> ids, int64_t begin, int64_t end, const LogitsCallback& row,
                           const ProgressCallback& progress = {});

  /// Keeps tokens [0, pos) and forgets the rest. Unless pos == len(), logits() is empty until the next token. The
  /// result is exact. If the streaming heads' rings no longer hold the rows that are needed, Rewind restores them from
  /// a snapshot. Then it prefills at most snapshot_every tokens again (without snapshots: all of them), and kCancelled
  /// leaves a shorter sequence. Returns kInvalidArgument if pos is not in [0, len()].
  Status Rewind(int64_t pos, const ProgressCallback& progress = {});

  /// Like Rewind, but prefills nothing again, so it is cheap. Keeps tokens [0, result), where result <= pos is the
  /// largest length that rings and snapshots allow. The caller then runs the tokens [result, pos) again.
  /// kInvalidArgument as Rewind.
  Result<int64_t> RewindToHeld(int64_t pos);

  /// The number of tokens that RewindToHeld(pos) would keep.
  int64_t HeldAt(int64_t pos) const;

  /// Forgets logits() and frees their memory, for sequences that are idle.
  void DropLogits();

  /// Number of first tokens of `ids` that the sequence shares and that can be reused. After a rewind to it, the
  /// sequence continues exactly like one that was given these tokens as a prompt. Generated tokens do not count when
  /// prompt tokens see another window (prefill_recent != recent).
  int64_t CommonPrefix(std::span<const int32_t> ids) const;

  /// Number of tokens before the first generated one.
  int64_t prompt_len() const;

  /// An independent copy of the sequence. A shared workspace is shared with the copy too. kResourceExhausted.
  Result<Session> Clone() const;

  /// A copy of the first HeldAt(pos) tokens. It has no logits unless these are all tokens. Errors as Clone and Rewind.
  Result<Session> ClonePrefix(int64_t pos) const;

  /// Writes tokens, K, V and snapshots to a file, but not the logits (docs/formats.md). The file appears under its name
  /// only when it is complete. `note` is text of the caller, up to 64 KiB, that is stored with it. Save does not change
  /// the sequence. Returns kIo with the reason.
  Status Save(const std::string& path, const std::string& note = "") const;

  /// Reads a sequence that Save wrote. The model must be the same, and so must the options of the cache: heads,
  /// windows, type and snapshots.
  ///
  /// Returns kCorrupt if the file is damaged. Returns kInvalidArgument if it is for another model, choice of heads or
  /// KV type; the sentence says which. Other errors: kNotFound, kIo, kResourceExhausted.
  static Result<Session> Load(const Model& model, const SessionOptions& options, const std::string& path,
                              Workspace* workspace = nullptr);

  /// Returns kResourceExhausted if n_tokens more would not fit. The sentence has the bytes needed, the bytes available,
  /// and the context that would fit.
  Status CheckFits(int64_t n_tokens) const;

  /// Advances the cache by n_tokens with arbitrary finite K and V, without running the model. Only for measuring speed
  /// at a context length, not for generating text. Errors as Prefill.
  Status FillSynthetic(int64_t n_tokens, uint64_t seed);

  int64_t len() const;
  const std::vector<int32_t>& tokens() const;  // all tokens; synthetic ones are 0
  const SessionOptions& options() const;       // with defaults filled in
  const MemoryPlan& plan() const;
  uint64_t kv_bytes() const;  // K, V and snapshots in use now

 private:
  class Impl;
  explicit Session(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Facts in the header of a file that Session::Save wrote.
struct SessionFileInfo {
  std::string model_name;
  int64_t n_tokens = 0;
  uint64_t file_bytes = 0;
  std::string note;
};

/// Reads only the file's header. kNotFound, kIo, kCorrupt.
Result<SessionFileInfo> ReadSessionFileInfo(const std::string& path);

}  // namespace duo
