#include "engine/session_header.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "engine/session_file_v1.h"

namespace duo {
namespace {

using safetensors::Tensor;
using safetensors::Type;

// Limits of what a file may claim. They keep the products of its numbers far from overflow.
constexpr int64_t kMaxTokens = int64_t{1} << 36;
constexpr int kMaxHeads = 1 << 16;
constexpr int kMaxHeadDim = 4096;

// The texts in the file's metadata.
constexpr const char* kFormatKey = "format";
constexpr const char* kFormat = "duo-session";
constexpr const char* kVersionKey = "version";
constexpr const char* kFactsKey = "session";
constexpr const char* kFactsHashKey = "session_xxh3";

std::string HashOf(std::string_view text) { return fmt::format("{:016x}", XXH3_64bits(text.data(), text.size())); }

Result<KvType> KvTypeOf(const std::string& name, const std::string& where) {
  for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kInt8, KvType::kInt4}) {
    if (name == KvTypeName(type)) return type;
  }
  return Corrupt("{}: kv_type: \"{}\", expected f32, bf16, int8 or int4", where, name);
}

Result<HeadChoice> HeadsFrom(const Json& json, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const int64_t n_layers, JsonInt(json, "n_layers", where));
  DUO_ASSIGN_OR_RETURN(const int64_t n_kv_heads, JsonInt(json, "n_kv_heads", where));
  if (n_layers < 1 || n_kv_heads < 1 || n_layers > kMaxHeads || n_kv_heads > kMaxHeads ||
      n_layers * n_kv_heads > kMaxHeads) {
    return Corrupt("{}: n_layers, n_kv_heads or head_dim is out of range", where);
  }
  DUO_ASSIGN_OR_RETURN(const std::string retrieval, JsonString(json, "retrieval", where));
  if (std::ssize(retrieval) != n_layers * n_kv_heads || retrieval.find_first_not_of("01") != std::string::npos) {
    return Corrupt("{}: retrieval: expected a 0 or 1 for each KV head", where);
  }
  HeadChoice heads{.n_layers = static_cast<int>(n_layers), .n_kv_heads = static_cast<int>(n_kv_heads), .retrieval = {}};
  for (const char c : retrieval) heads.retrieval.push_back(c == '1' ? 1 : 0);
  return heads;
}

Result<KvLayout> LayoutFrom(const Json& json, const std::string& where) {
  KvLayout layout;
  DUO_ASSIGN_OR_RETURN(layout.heads, HeadsFrom(json, where));
  DUO_ASSIGN_OR_RETURN(const int64_t head_dim, JsonInt(json, "head_dim", where));
  if (head_dim < 1 || head_dim > kMaxHeadDim) {
    return Corrupt("{}: n_layers, n_kv_heads or head_dim is out of range", where);
  }
  layout.head_dim = static_cast<int>(head_dim);
  DUO_ASSIGN_OR_RETURN(const std::string type, JsonString(json, "kv_type", where));
  DUO_ASSIGN_OR_RETURN(layout.type, KvTypeOf(type, where));
  DUO_ASSIGN_OR_RETURN(layout.sink, JsonInt(json, "sink", where));
  DUO_ASSIGN_OR_RETURN(layout.recent, JsonInt(json, "recent", where));
  DUO_ASSIGN_OR_RETURN(layout.prefill_recent, JsonInt(json, "prefill_recent", where));
  DUO_ASSIGN_OR_RETURN(layout.snapshot_every, JsonInt(json, "snapshot_every", where));
  layout.capacity = kMaxTokens;
  const Status status = CheckKvLayout(layout);
  // A wrong option of a caller is a damaged number when it comes from a file.
  if (!status.ok()) return Corrupt("{}: {}", where, status.message());
  return layout;
}

Result<SplitKvCache::Extent> ExtentFrom(const Json& json, const std::string& where) {
  SplitKvCache::Extent extent;
  DUO_ASSIGN_OR_RETURN(extent.len, JsonInt(json, "len", where));
  DUO_ASSIGN_OR_RETURN(extent.lowest_held, JsonInt(json, "lowest_held", where));
  DUO_ASSIGN_OR_RETURN(const Json* snapshots, JsonMember(json, "snapshots", where));
  if (extent.len < 0 || extent.len > kMaxTokens || extent.lowest_held < 0 || extent.lowest_held > extent.len ||
      !snapshots->is_array()) {
    return Corrupt("{}: len, lowest_held or snapshots is out of range", where);
  }
  int64_t before = 0;
  for (const Json& at : *snapshots) {
    if (!at.is_number_integer() || at.get<int64_t>() <= before || at.get<int64_t>() > extent.len) {
      return Corrupt("{}: snapshots: expected ascending positions up to len", where);
    }
    before = at.get<int64_t>();
    extent.snapshots.push_back(before);
  }
  return extent;
}

/// K or V rows, `bytes` bytes of them for each element of `outer`. Rows of floats have the shape [rows, head_dim],
/// codes [blocks, bytes of a block].
Tensor RowsTensor(std::string name, const KvLayout& layout, std::vector<int64_t> outer, size_t bytes) {
  const Type type = layout.type == KvType::kF32 ? Type::kF32 : layout.type == KvType::kBF16 ? Type::kBF16 : Type::kU8;
  const int64_t block_bytes = KvBlockRows(layout.type) * layout.row_bytes();
  outer.push_back(bytes / block_bytes);
  outer.push_back(type == Type::kU8 ? block_bytes : layout.head_dim);
  return {.name = std::move(name), .type = type, .shape = std::move(outer)};
}

/// The file's tensors in the order of the data, without their bytes. K and V come as SplitKvCache::VisitBytes visits
/// them.
std::vector<Tensor> TensorsOf(const SessionFileHeader& header) {
  const KvLayout& layout = header.layout;
  const int64_t len = header.extent.len;
  std::vector<Tensor> tensors = {{.name = "tokens", .type = Type::kI32, .shape = {len}}};
  int64_t all_streaming = 0;
  for (int layer = 0; layer < layout.heads.n_layers; ++layer) {
    int64_t n_retrieval = 0;
    for (int head = 0; head < layout.heads.n_kv_heads; ++head) n_retrieval += layout.heads.is_retrieval(layer, head);
    const int64_t n_streaming = layout.heads.n_kv_heads - n_retrieval;
    all_streaming += n_streaming;
    if (n_retrieval != 0) {
      tensors.push_back(
          RowsTensor(fmt::format("layers.{}.retrieval", layer), layout, {n_retrieval, 2}, layout.bytes_of(len)));
    }
    if (n_streaming != 0) {
      tensors.push_back(RowsTensor(fmt::format("layers.{}.streaming", layer), layout, {2, n_streaming},
                                   layout.bytes_of(layout.sink + layout.ring())));
    }
  }
  if (!header.extent.snapshots.empty()) {
    // One tensor for all, because a long text has thousands of snapshots.
    tensors.push_back(
        RowsTensor("snapshots", layout, {std::ssize(header.extent.snapshots), 2 * all_streaming}, layout.ring_bytes()));
  }
  // The kinds come after K and V, so that those are aligned to their elements.
  tensors.push_back({.name = "generated", .type = Type::kBool, .shape = {len}});
  tensors.push_back({.name = "checksum", .type = Type::kU8, .shape = {kSessionChecksumBytes}});
  return tensors;
}

/// The tensors must be exactly those that the facts imply, one after another. Then their sizes, which were checked
/// against the file, are the sizes of the cache.
Status CheckTensors(const SessionFileHeader& header, const safetensors::FileHeader& file, const std::string& where) {
  const std::vector<Tensor> expected = TensorsOf(header);
  uint64_t next = file.data_begin;
  for (const Tensor& tensor : expected) {
    const auto found = file.tensors.find(tensor.name);
    if (found == file.tensors.end()) return Corrupt("{}: tensor {}: missing", where, tensor.name);
    const safetensors::Entry& entry = found->second;
    if (entry.type != tensor.type || entry.shape != tensor.shape || entry.begin != next) {
      return Corrupt("{}: tensor {}: its type, shape or place is not that of the session", where, tensor.name);
    }
    next += entry.bytes;
  }
  if (file.tensors.size() == expected.size()) return OkStatus();
  return Corrupt("{}: {} tensors, expected {}", where, file.tensors.size(), expected.size());
}

/// The length that a safetensors file gives for its header; 0 if the bytes end before it.
uint64_t HeaderBytes(std::span<const uint8_t> bytes) {
  uint64_t n = 0;
  for (size_t i = 0; i < sizeof n && bytes.size() >= sizeof n; ++i) n |= uint64_t{bytes[i]} << (8 * i);
  return n;
}

}  // namespace

std::string SessionFacts(const SessionFileHeader& header) {
  std::string retrieval;
  for (const uint8_t r : header.layout.heads.retrieval) retrieval += r != 0 ? '1' : '0';
  const KvLayout& layout = header.layout;
  return JsonText({{"model", header.model_name},
                   {"model_hash", header.model_hash},
                   {"n_layers", layout.heads.n_layers},
                   {"n_kv_heads", layout.heads.n_kv_heads},
                   {"head_dim", layout.head_dim},
                   {"retrieval", retrieval},
                   {"kv_type", KvTypeName(layout.type)},
                   {"sink", layout.sink},
                   {"recent", layout.recent},
                   {"prefill_recent", layout.prefill_recent},
                   {"snapshot_every", layout.snapshot_every},
                   {"len", header.extent.len},
                   {"lowest_held", header.extent.lowest_held},
                   {"snapshots", header.extent.snapshots},
                   {"note", header.note}});
}

Result<SessionFileHeader> ParseSessionFacts(std::string_view text, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(text, where));
  SessionFileHeader header;
  DUO_ASSIGN_OR_RETURN(header.model_name, JsonString(json, "model", where));
  DUO_ASSIGN_OR_RETURN(header.model_hash, JsonString(json, "model_hash", where));
  DUO_ASSIGN_OR_RETURN(header.note, JsonString(json, "note", where));
  DUO_ASSIGN_OR_RETURN(header.layout, LayoutFrom(json, where));
  DUO_ASSIGN_OR_RETURN(header.extent, ExtentFrom(json, where));
  return header;
}

uint64_t SessionDataBytes(const SessionFileHeader& header) {
  const auto len = static_cast<uint64_t>(header.extent.len);
  return len * (sizeof(int32_t) + 1) + SplitKvCache::ExtentBytes(header.layout, header.extent);
}

Result<std::string> FormatSessionHeader(SessionFileHeader* header, const std::string& where) {
  const std::string facts = SessionFacts(*header);
  const safetensors::Metadata metadata = {{kFormatKey, kFormat},
                                          {kVersionKey, std::to_string(kSessionVersion)},
                                          {kFactsKey, facts},
                                          {kFactsHashKey, HashOf(facts)}};
  DUO_ASSIGN_OR_RETURN(std::string bytes,
                       safetensors::FormatFileHeader(where, TensorsOf(*header), metadata, kSessionDataAlign));
  if (bytes.size() > kMaxSessionHeaderBytes) {
    return InvalidArgument("{}: a header of {} bytes is too long for a saved session", where, bytes.size());
  }
  header->version = kSessionVersion;
  header->data_offset = bytes.size();
  header->data_bytes = SessionDataBytes(*header);
  return bytes;
}

Result<SessionFileHeader> ParseSessionHeader(std::span<const uint8_t> bytes, uint64_t file_bytes,
                                             const std::string& where) {
  if (IsSessionV1(bytes)) return ParseSessionHeaderV1(bytes, file_bytes, where);
  if (HeaderBytes(bytes) > kMaxSessionHeaderBytes) return Corrupt("{}: not a saved session", where);
  DUO_ASSIGN_OR_RETURN(safetensors::FileHeader file, safetensors::ParseFileHeader(bytes, file_bytes, where));
  if (file.metadata[kFormatKey] != kFormat) return Corrupt("{}: not a saved session", where);
  const std::string& version = file.metadata[kVersionKey];
  if (version != std::to_string(kSessionVersion)) {
    return Corrupt("{}: format version {}, expected version {}", where, version, kSessionVersion);
  }
  const std::string& facts = file.metadata[kFactsKey];
  // The tensors' entries need no checksum, because they must be what the facts say.
  if (HashOf(facts) != file.metadata[kFactsHashKey]) {
    return Corrupt("{}: the header is damaged: its checksum differs", where);
  }
  DUO_ASSIGN_OR_RETURN(SessionFileHeader header, ParseSessionFacts(facts, where));
  DUO_RETURN_IF_ERROR(CheckTensors(header, file, where));
  header.data_offset = file.data_begin;
  header.data_bytes = file_bytes - file.data_begin - kSessionChecksumBytes;
  return header;
}

}  // namespace duo
