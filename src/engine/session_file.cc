#include "engine/session_file.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "backend/backend.h"
#include "base/align.h"
#include "base/atomic_file.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "duo/session.h"
#include "engine/session_impl.h"
#include "engine/session_layout.h"
#include "model/fingerprint.h"

namespace duo {
namespace {

constexpr char kMagic[8] = {'D', 'U', 'O', 'S', 'E', 'S', 'S', '\n'};
constexpr uint32_t kVersion = 1;
constexpr size_t kDataAlign = 4096;
constexpr size_t kTrailerBytes = 8;  // XXH3 of the data
constexpr int64_t kMaxTokens = int64_t{1} << 36;
constexpr int kMaxHeads = 1 << 16;
constexpr int kMaxHeadDim = 4096;
constexpr size_t kCopyBytes = size_t{4} << 20;

/// The first bytes of the file. All integers are little-endian, as on this machine.
struct Preamble {
  char magic[8];
  uint32_t version;
  uint32_t unused;
  uint64_t header_bytes;
  uint64_t header_hash;  // XXH3 of the header
  uint64_t data_bytes;
};
static_assert(sizeof(Preamble) == kSessionPreambleBytes);

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

uint64_t DataBytes(const SessionFileHeader& header) {
  const auto len = static_cast<uint64_t>(header.extent.len);
  return len * (sizeof(int32_t) + 1) + SplitKvCache::ExtentBytes(header.layout, header.extent);
}

Status Corrupt(const std::string& where, const std::string& what) {
  return Status(StatusCode::kCorrupt, where + ": " + what);
}

Result<KvType> KvTypeOf(const std::string& name, const std::string& where) {
  for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kInt8, KvType::kInt4}) {
    if (name == KvTypeName(type)) return type;
  }
  return Corrupt(where, "kv_type: \"" + name + "\", expected f32, bf16, int8 or int4");
}

Result<KvLayout> LayoutFrom(const Json& json, const std::string& where) {
  KvLayout layout;
  DUO_ASSIGN_OR_RETURN(const int64_t n_layers, JsonInt(json, "n_layers", where));
  DUO_ASSIGN_OR_RETURN(const int64_t n_kv_heads, JsonInt(json, "n_kv_heads", where));
  DUO_ASSIGN_OR_RETURN(const int64_t head_dim, JsonInt(json, "head_dim", where));
  if (n_layers < 1 || n_kv_heads < 1 || n_layers > kMaxHeads || n_kv_heads > kMaxHeads ||
      n_layers * n_kv_heads > kMaxHeads || head_dim < 1 || head_dim > kMaxHeadDim) {
    return Corrupt(where, "n_layers, n_kv_heads or head_dim is out of range");
  }
  layout.head_dim = static_cast<int>(head_dim);
  layout.heads.n_layers = static_cast<int>(n_layers);
  layout.heads.n_kv_heads = static_cast<int>(n_kv_heads);
  DUO_ASSIGN_OR_RETURN(const std::string retrieval, JsonString(json, "retrieval", where));
  if (std::ssize(retrieval) != n_layers * n_kv_heads || retrieval.find_first_not_of("01") != std::string::npos) {
    return Corrupt(where, "retrieval: expected a 0 or 1 for each KV head");
  }
  for (const char c : retrieval) layout.heads.retrieval.push_back(c == '1' ? 1 : 0);
  DUO_ASSIGN_OR_RETURN(const std::string type, JsonString(json, "kv_type", where));
  DUO_ASSIGN_OR_RETURN(layout.type, KvTypeOf(type, where));
  DUO_ASSIGN_OR_RETURN(layout.sink, JsonInt(json, "sink", where));
  DUO_ASSIGN_OR_RETURN(layout.recent, JsonInt(json, "recent", where));
  DUO_ASSIGN_OR_RETURN(layout.prefill_recent, JsonInt(json, "prefill_recent", where));
  DUO_ASSIGN_OR_RETURN(layout.snapshot_every, JsonInt(json, "snapshot_every", where));
  layout.capacity = kMaxTokens;
  const Status status = CheckKvLayout(layout);
  if (!status.ok()) return Corrupt(where, status.message());
  return layout;
}

Result<SplitKvCache::Extent> ExtentFrom(const Json& json, const std::string& where) {
  SplitKvCache::Extent extent;
  DUO_ASSIGN_OR_RETURN(extent.len, JsonInt(json, "len", where));
  DUO_ASSIGN_OR_RETURN(extent.lowest_held, JsonInt(json, "lowest_held", where));
  DUO_ASSIGN_OR_RETURN(const Json* snapshots, JsonMember(json, "snapshots", where));
  if (extent.len < 0 || extent.len > kMaxTokens || extent.lowest_held < 0 || extent.lowest_held > extent.len ||
      !snapshots->is_array()) {
    return Corrupt(where, "len, lowest_held or snapshots is out of range");
  }
  int64_t before = 0;
  for (const Json& at : *snapshots) {
    if (!at.is_number_integer() || at.get<int64_t>() <= before || at.get<int64_t>() > extent.len) {
      return Corrupt(where, "snapshots: expected ascending positions up to len");
    }
    before = at.get<int64_t>();
    extent.snapshots.push_back(before);
  }
  return extent;
}

}  // namespace

std::string FormatSessionHeader(SessionFileHeader* header) {
  std::string retrieval;
  for (const uint8_t r : header->layout.heads.retrieval) retrieval += r != 0 ? '1' : '0';
  const KvLayout& layout = header->layout;
  const Json json = {{"model", header->model_name},
                     {"model_hash", header->model_hash},
                     {"n_layers", layout.heads.n_layers},
                     {"n_kv_heads", layout.heads.n_kv_heads},
                     {"head_dim", layout.head_dim},
                     {"retrieval", retrieval},
                     {"kv_type", KvTypeName(layout.type)},
                     {"sink", layout.sink},
                     {"recent", layout.recent},
                     {"prefill_recent", layout.prefill_recent},
                     {"snapshot_every", layout.snapshot_every},
                     {"len", header->extent.len},
                     {"lowest_held", header->extent.lowest_held},
                     {"snapshots", header->extent.snapshots},
                     {"note", header->note}};
  const std::string text = JsonText(json);
  header->data_bytes = DataBytes(*header);
  Preamble preamble = {};
  std::memcpy(preamble.magic, kMagic, sizeof kMagic);
  preamble.version = kVersion;
  preamble.header_bytes = text.size();
  preamble.header_hash = XXH3_64bits(text.data(), text.size());
  preamble.data_bytes = header->data_bytes;
  std::string bytes(reinterpret_cast<const char*>(&preamble), sizeof preamble);
  bytes += text;
  bytes.resize(RoundUp(bytes.size(), kDataAlign), '\0');
  header->data_offset = bytes.size();
  return bytes;
}

Result<SessionFileHeader> ParseSessionHeader(std::span<const uint8_t> bytes, uint64_t file_bytes,
                                             const std::string& where) {
  Preamble preamble;
  if (bytes.size() < sizeof preamble) return Corrupt(where, "too short for a saved session");
  std::memcpy(&preamble, bytes.data(), sizeof preamble);
  if (std::memcmp(preamble.magic, kMagic, sizeof kMagic) != 0) return Corrupt(where, "not a saved session");
  if (preamble.version != kVersion) {
    return Corrupt(
        where, "format version " + std::to_string(preamble.version) + ", expected version " + std::to_string(kVersion));
  }
  if (preamble.header_bytes > kMaxSessionHeaderBytes || preamble.header_bytes > bytes.size() - sizeof preamble) {
    return Corrupt(where, "the header of " + std::to_string(preamble.header_bytes) + " bytes is cut off");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof preamble, preamble.header_bytes);
  if (XXH3_64bits(text.data(), text.size()) != preamble.header_hash) {
    return Corrupt(where, "the header is damaged: its checksum differs");
  }
  DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(text, where));
  SessionFileHeader header;
  DUO_ASSIGN_OR_RETURN(header.model_name, JsonString(json, "model", where));
  DUO_ASSIGN_OR_RETURN(header.model_hash, JsonString(json, "model_hash", where));
  DUO_ASSIGN_OR_RETURN(header.note, JsonString(json, "note", where));
  DUO_ASSIGN_OR_RETURN(header.layout, LayoutFrom(json, where));
  DUO_ASSIGN_OR_RETURN(header.extent, ExtentFrom(json, where));
  header.data_offset = RoundUp(sizeof preamble + preamble.header_bytes, kDataAlign);
  header.data_bytes = DataBytes(header);
  const uint64_t expected = header.data_offset + header.data_bytes + kTrailerBytes;
  if (preamble.data_bytes != header.data_bytes || file_bytes != expected) {
    return Corrupt(where, std::to_string(file_bytes) + " bytes, expected " + std::to_string(expected) +
                              ": the file is cut off or is not a saved session");
  }
  return header;
}

Result<SessionFileInfo> ReadSessionFileInfo(const std::string& path) {
  DUO_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path, Links::kRefuse));
  DUO_ASSIGN_OR_RETURN(const SessionFileHeader header,
                       ParseSessionHeader({file.data(), file.size()}, file.size(), path));
  return SessionFileInfo{header.model_name, header.extent.len, file.size(), header.note};
}

Status Session::Save(const std::string& path, const std::string& note) const {
  if (note.size() > kMaxSessionNoteBytes) {
    return Status(StatusCode::kInvalidArgument,
                  "note: " + std::to_string(note.size()) + " bytes, at most " + std::to_string(kMaxSessionNoteBytes));
  }
  SessionFileHeader header;
  header.model_name = impl_->weights.config.name;
  header.model_hash = ModelFingerprint(impl_->weights);
  header.layout = impl_->cache.layout();
  header.extent = impl_->cache.extent();
  header.note = note;
  DUO_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path, FileAccess::kOwner));
  DUO_RETURN_IF_ERROR(file.Write(FormatSessionHeader(&header)));
  Hash hash;
  uint64_t written = 0;
  const auto write = [&](const void* data, size_t bytes) {
    hash.Add(data, bytes);
    written += bytes;
    return file.Write(data, bytes);
  };
  DUO_RETURN_IF_ERROR(write(impl_->tokens.data(), impl_->tokens.size() * sizeof(int32_t)));
  DUO_RETURN_IF_ERROR(write(impl_->kinds.data(), impl_->kinds.size()));
  std::vector<uint8_t> block(kCopyBytes);
  Backend* backend = impl_->weights.backend;
  const Status visited = impl_->cache.VisitBytes([&](const uint8_t* data, size_t bytes) -> Status {
    for (size_t at = 0; at < bytes; at += kCopyBytes) {
      const size_t n = std::min(kCopyBytes, bytes - at);
      DUO_RETURN_IF_ERROR(backend->ToHost(data + at, block.data(), n));
      DUO_RETURN_IF_ERROR(write(block.data(), n));
    }
    return OkStatus();
  });
  DUO_RETURN_IF_ERROR(visited);
  DUO_CHECK(written == header.data_bytes, "the file must have the size that its header says");
  const uint64_t data_hash = hash.value();
  DUO_RETURN_IF_ERROR(file.Write(&data_hash, sizeof data_hash));
  return file.Commit();
}

namespace {

/// The reason why a file cannot be loaded with these options; empty when it can.
std::string Difference(const SessionFileHeader& file, const Model::Weights& weights, const KvLayout& layout) {
  const KvLayout& saved = file.layout;
  if (file.model_hash != ModelFingerprint(weights)) {
    return "it is for another model or other weights (\"" + file.model_name + "\"); this is \"" + weights.config.name +
           "\"";
  }
  if (saved.heads.n_layers != layout.heads.n_layers || saved.heads.n_kv_heads != layout.heads.n_kv_heads ||
      saved.head_dim != layout.head_dim) {
    return "it is for a model of another shape";
  }
  const auto number = [](const char* what, int64_t is, int64_t expected) {
    return std::string(what) + " is " + std::to_string(is) + ", here " + std::to_string(expected);
  };
  if (saved.type != layout.type) {
    return std::string("its type of K and V is ") + KvTypeName(saved.type) + ", here " + KvTypeName(layout.type);
  }
  if (saved.heads.retrieval != layout.heads.retrieval) {
    return "its choice of heads differs: " + std::to_string(saved.heads.n_retrieval()) + " retrieval heads, here " +
           std::to_string(layout.heads.n_retrieval()) + " or others";
  }
  if (saved.sink != layout.sink) return number("its sink", saved.sink, layout.sink);
  if (saved.recent != layout.recent) return number("its recent", saved.recent, layout.recent);
  if (saved.prefill_recent != layout.prefill_recent) {
    return number("its prefill_recent", saved.prefill_recent, layout.prefill_recent);
  }
  if (saved.snapshot_every != layout.snapshot_every) {
    return number("its snapshot_every", saved.snapshot_every, layout.snapshot_every);
  }
  return "";
}

}  // namespace

Result<Session> Session::Load(const Model& model, const SessionOptions& options, const std::string& path,
                              Workspace* workspace) {
  DUO_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path, Links::kRefuse));
  DUO_ASSIGN_OR_RETURN(const SessionFileHeader header,
                       ParseSessionHeader({file.data(), file.size()}, file.size(), path));
  DUO_ASSIGN_OR_RETURN(const SessionOptions resolved, ResolveOptions(model.config(), options));
  const std::string difference = Difference(header, model.weights(), LayoutOf(model.config(), resolved));
  if (!difference.empty()) return Status(StatusCode::kInvalidArgument, path + ": " + difference);
  DUO_ASSIGN_OR_RETURN(Session session, Create(model, options, workspace));
  DUO_RETURN_IF_ERROR(session.CheckFits(header.extent.len).Annotate(path));
  Impl* impl = session.impl_.get();
  const uint8_t* at = file.data() + header.data_offset;
  Hash hash;
  const auto next = [&](size_t bytes) {
    const uint8_t* from = at;
    hash.Add(from, bytes);
    at += bytes;
    return from;
  };
  const auto n = static_cast<size_t>(header.extent.len);
  impl->tokens.resize(n);
  impl->kinds.resize(n);
  if (n != 0) std::memcpy(impl->tokens.data(), next(n * sizeof(int32_t)), n * sizeof(int32_t));
  const uint8_t* kinds = next(n);
  if (std::any_of(kinds, kinds + n, [](uint8_t kind) { return kind > static_cast<uint8_t>(TokenKind::kGenerated); }) ||
      !CheckTokenIds(impl->tokens, model.config().vocab_size).ok()) {
    return Corrupt(path, "it has tokens that are not in the model's vocabulary");
  }
  for (size_t i = 0; i < n; ++i) impl->kinds[i] = static_cast<TokenKind>(kinds[i]);
  const Status extent = impl->cache.SetExtent(header.extent);
  if (extent.code() == StatusCode::kInvalidArgument) return Corrupt(path, extent.message());
  DUO_RETURN_IF_ERROR(extent);
  Backend* backend = model.backend();
  DUO_RETURN_IF_ERROR(impl->cache.VisitBytes([&](uint8_t* data, size_t bytes) {
    for (size_t done = 0; done < bytes; done += kCopyBytes) {
      const size_t now = std::min(kCopyBytes, bytes - done);
      backend->FromHost(next(now), data + done, now);
    }
    return OkStatus();
  }));
  uint64_t data_hash;
  std::memcpy(&data_hash, at, sizeof data_hash);
  if (data_hash != hash.value()) return Corrupt(path, "the data is damaged: its checksum differs");
  return session;
}

}  // namespace duo
