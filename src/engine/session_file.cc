// Writes and reads the file of a saved sequence. The cache goes through a block of a few MiB, so a file of gigabytes
// needs no second copy of it in memory.
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "backend/backend.h"
#include "base/atomic_file.h"
#include "base/check.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "duo/session.h"
#include "engine/session_header.h"
#include "engine/session_impl.h"
#include "engine/session_layout.h"
#include "model/fingerprint.h"

namespace duo {
namespace {

// Small enough that a block is still in the CPU's cache when it is copied after its checksum was computed.
constexpr size_t kCopyBytes = size_t{4} << 20;

// A checksum for gigabytes must keep up with memory (docs/decisions/0010-http-and-checksums.md).
class Hash {
 public:
  Hash() : state_(XXH3_createState()) { XXH3_64bits_reset(state_.get()); }
  void Add(const void* data, size_t bytes) { XXH3_64bits_update(state_.get(), data, bytes); }
  uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

/// Appends the data to a file. The checksum comes last, because it is known only then.
class DataWriter {
 public:
  explicit DataWriter(AtomicFile* file) : file_(file) {}
  Status Write(const void* data, size_t bytes) {
    hash_.Add(data, bytes);
    written_ += bytes;
    return file_->Write(data, bytes);
  }
  Status WriteChecksum() {
    const uint64_t value = hash_.value();
    return file_->Write(&value, sizeof value);
  }
  uint64_t written() const { return written_; }

 private:
  AtomicFile* file_;
  Hash hash_;
  uint64_t written_ = 0;
};

/// Reads the data of a mapped file in their order. The header's sizes were checked against the file.
class DataReader {
 public:
  explicit DataReader(const uint8_t* data) : at_(data) {}
  const uint8_t* Next(size_t bytes) {
    hash_.Add(at_, bytes);
    return std::exchange(at_, at_ + bytes);
  }
  bool ChecksumFits() const {
    uint64_t stored;
    std::memcpy(&stored, at_, sizeof stored);
    return stored == hash_.value();
  }

 private:
  const uint8_t* at_;
  Hash hash_;
};

/// K and V may be in a device's memory, so they go through a block in the host's.
Status WriteCache(const SplitKvCache& cache, Backend* backend, DataWriter* out) {
  // Small, so that saving needs almost no memory beside the cache.
  std::vector<uint8_t> block(kCopyBytes);
  return cache.VisitBytes([&](const uint8_t* data, size_t bytes) -> Status {
    for (size_t at = 0; at < bytes; at += kCopyBytes) {
      const size_t n = std::min(kCopyBytes, bytes - at);
      DUO_RETURN_IF_ERROR(backend->ToHost(data + at, block.data(), n));
      DUO_RETURN_IF_ERROR(out->Write(block.data(), n));
    }
    return OkStatus();
  });
}

// The file is mapped, so its rows go to the cache without a copy in between.
Status ReadCache(DataReader* in, Backend* backend, SplitKvCache* cache) {
  return cache->VisitBytes([&](uint8_t* data, size_t bytes) {
    for (size_t at = 0; at < bytes; at += kCopyBytes) {
      const size_t n = std::min(kCopyBytes, bytes - at);
      backend->FromHost(in->Next(n), data + at, n);
    }
    return OkStatus();
  });
}

/// A session goes on exactly only with the weights and windows that its K and V were computed with.
///
/// Returns the reason why a file cannot be loaded with these options; empty when it can.
std::string Difference(const SessionFileHeader& file, const Model::Weights& weights, const KvLayout& layout) {
  const KvLayout& saved = file.layout;
  if (file.model_hash != ModelFingerprint(weights)) {
    return fmt::format("it is for another model or other weights (\"{}\"); this is \"{}\"", file.model_name,
                       weights.config.name);
  }
  if (saved.heads.n_layers != layout.heads.n_layers || saved.heads.n_kv_heads != layout.heads.n_kv_heads ||
      saved.head_dim != layout.head_dim) {
    return "it is for a model of another shape";
  }
  if (saved.type != layout.type) {
    return fmt::format("its type of K and V is {}, here {}", KvTypeName(saved.type), KvTypeName(layout.type));
  }
  if (saved.heads.retrieval != layout.heads.retrieval) {
    return fmt::format("its choice of heads differs: {} retrieval heads, here {} or others", saved.heads.n_retrieval(),
                       layout.heads.n_retrieval());
  }
  const struct {
    const char* name;
    int64_t saved, here;
  } numbers[] = {{"sink", saved.sink, layout.sink},
                 {"recent", saved.recent, layout.recent},
                 {"prefill_recent", saved.prefill_recent, layout.prefill_recent},
                 {"snapshot_every", saved.snapshot_every, layout.snapshot_every}};
  for (const auto& number : numbers) {
    if (number.saved != number.here) {
      return fmt::format("its {} is {}, here {}", number.name, number.saved, number.here);
    }
  }
  return "";
}

}  // namespace

Result<SessionFileInfo> ReadSessionFileInfo(const std::string& path) {
  // Otherwise another user of the folder could link to a file that only this program may read.
  DUO_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path, Links::kRefuse));
  DUO_ASSIGN_OR_RETURN(const SessionFileHeader header,
                       ParseSessionHeader({file.data(), file.size()}, file.size(), path));
  // The pages after the header were mapped, but not read.
  return SessionFileInfo{header.model_name, header.extent.len, file.size(), header.note};
}

Status Session::Save(const std::string& path, const std::string& note) const {
  if (note.size() > kMaxSessionNoteBytes) {
    return InvalidArgument("note: {} bytes, at most {}", note.size(), kMaxSessionNoteBytes);
  }
  SessionFileHeader header;
  header.model_name = impl_->weights.config.name;
  header.model_hash = ModelFingerprint(impl_->weights);
  header.layout = impl_->cache.layout();
  header.extent = impl_->cache.extent();
  header.note = note;
  DUO_ASSIGN_OR_RETURN(const std::string first, FormatSessionHeader(&header, path));
  DUO_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path, FileAccess::kOwner));
  DUO_RETURN_IF_ERROR(file.Write(first));
  DataWriter data(&file);
  DUO_RETURN_IF_ERROR(data.Write(impl_->tokens.data(), impl_->tokens.size() * sizeof(int32_t)));
  DUO_RETURN_IF_ERROR(WriteCache(impl_->cache, impl_->weights.backend, &data));
  DUO_RETURN_IF_ERROR(data.Write(impl_->kinds.data(), impl_->kinds.size()));
  // A wrong size would make the file unreadable, and that would be noticed only when it is needed.
  DUO_CHECK(data.written() == header.data_bytes, "the file must have the size that its header says");
  DUO_RETURN_IF_ERROR(data.WriteChecksum());
  return file.Commit();
}

Result<Session> Session::Load(const Model& model, const SessionOptions& options, const std::string& path,
                              Workspace* workspace) {
  DUO_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path, Links::kRefuse));
  DUO_ASSIGN_OR_RETURN(const SessionFileHeader header,
                       ParseSessionHeader({file.data(), file.size()}, file.size(), path));
  // All that can be known from the header is checked before memory is taken.
  DUO_ASSIGN_OR_RETURN(const SessionOptions resolved, ResolveOptions(model.config(), options));
  const std::string difference = Difference(header, model.weights(), LayoutOf(model.config(), resolved));
  if (!difference.empty()) return InvalidArgument("{}: {}", path, difference);
  DUO_ASSIGN_OR_RETURN(Session session, Create(model, options, workspace));
  DUO_RETURN_IF_ERROR(session.CheckFits(header.extent.len).Annotate(path));
  Impl* impl = session.impl_.get();
  DataReader data(file.data() + header.data_offset);
  const size_t n = header.extent.len;
  impl->tokens.resize(n);
  const uint8_t* tokens = data.Next(n * sizeof(int32_t));
  // An empty vector may have a null pointer, which memcpy does not take.
  if (n != 0) std::memcpy(impl->tokens.data(), tokens, n * sizeof(int32_t));
  // Version 1 has the kinds before the cache. Version 2 has them after it, so that K and V are aligned.
  const uint8_t* kinds = header.version == 1 ? data.Next(n) : nullptr;
  const Status extent = impl->cache.SetExtent(header.extent);
  // The caller's options were checked above, so a contradiction comes from the file.
  if (extent.code() == StatusCode::kInvalidArgument) return Corrupt("{}: {}", path, extent.message());
  DUO_RETURN_IF_ERROR(extent);
  DUO_RETURN_IF_ERROR(ReadCache(&data, model.backend(), &impl->cache));
  if (kinds == nullptr) kinds = data.Next(n);
  if (!data.ChecksumFits()) return Corrupt("{}: the data is damaged: its checksum differs", path);
  // A fitting checksum does not mean that duo wrote the file, so ids and kinds are checked as well.
  const bool known_kinds =
      std::all_of(kinds, kinds + n, [](uint8_t kind) { return kind <= static_cast<uint8_t>(TokenKind::kGenerated); });
  if (!known_kinds || !CheckTokenIds(impl->tokens, model.config().vocab_size).ok()) {
    return Corrupt("{}: it has tokens that are not in the model's vocabulary", path);
  }
  for (size_t i = 0; i < n; ++i) impl->kinds.push_back(static_cast<TokenKind>(kinds[i]));
  return session;
}

}  // namespace duo
