#include "checkpoint/checkpoint.h"

#include <fmt/format.h>

#include <cstring>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/shape_text.h"
#include "checkpoint/limits.h"

namespace duo {
namespace {

constexpr const char* kSingleName = "/model.safetensors";
constexpr const char* kIndexName = "/model.safetensors.index.json";
constexpr size_t kMaxRank = 4;

bool ToDType(safetensors::Type type, DType* dtype) {
  switch (type) {
    case safetensors::Type::kF32: *dtype = DType::kF32; return true;
    case safetensors::Type::kBF16: *dtype = DType::kBF16; return true;
    case safetensors::Type::kF16: *dtype = DType::kF16; return true;
    case safetensors::Type::kI8: *dtype = DType::kI8; return true;
    case safetensors::Type::kU8: *dtype = DType::kU8; return true;
    default: return false;
  }
}

// Shards must be in the directory of their index. Symbolic links are followed, because the Hugging Face cache consists
// of them.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

// Reads the map from tensor names to shard names, and checks the form of both.
Result<std::map<std::string, std::string>> ReadWeightMap(const std::string& path) {
  DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, limits::kMaxIndexBytes));
  DUO_ASSIGN_OR_RETURN(const Json index, ParseJson(text, path));
  const auto weight_map = index.is_object() ? index.find("weight_map") : index.end();
  if (weight_map == index.end() || !weight_map->is_object()) {
    return Corrupt("{}: weight_map: expected an object of tensor names and shard names", path);
  }
  if (weight_map->size() > limits::kMaxTensors) {
    return Corrupt("{}: weight_map: more than {} tensors", path, limits::kMaxTensors);
  }
  std::map<std::string, std::string> shard_of;
  for (auto it = weight_map->begin(); it != weight_map->end(); ++it) {
    const std::string* shard = it->get_ptr<const std::string*>();
    if (shard == nullptr) {
      return Corrupt("{}: weight_map: {}: expected a shard's file name, found {}", path, it.key(), JsonTypeName(*it));
    }
    if (!IsPlainFileName(*shard)) {
      return Corrupt("{}: weight_map: {}: shard \"{}\" is not the name of a file in this directory", path, it.key(),
                     shard->substr(0, 255));
    }
    shard_of.emplace(it.key(), *shard);
  }
  return shard_of;
}

}  // namespace

Result<Checkpoint> Checkpoint::Open(const std::string& dir) {
  if (!IsDirectory(dir)) return NotFound("{}: no such model directory", dir);
  Checkpoint checkpoint;
  checkpoint.dir_ = dir;
  if (FileExists(dir + kSingleName)) {
    DUO_RETURN_IF_ERROR(checkpoint.OpenSingle(dir + kSingleName));
  } else if (FileExists(dir + kIndexName)) {
    DUO_RETURN_IF_ERROR(checkpoint.OpenSharded(dir + kIndexName));
  } else {
    return NotFound("{}: neither model.safetensors nor model.safetensors.index.json is in this directory", dir);
  }
  checkpoint.AddMissingPrefix();
  return checkpoint;
}

Status Checkpoint::OpenSingle(const std::string& path) {
  DUO_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  DUO_ASSIGN_OR_RETURN(const safetensors::Header header, safetensors::ParseHeader(file.data(), file.size(), path));
  for (const auto& [name, entry] : header) DUO_RETURN_IF_ERROR(Add(name, entry, file));
  files_.push_back(std::move(file));
  return OkStatus();
}

Status Checkpoint::OpenSharded(const std::string& index_path) {
  DUO_ASSIGN_OR_RETURN(const auto shard_of, ReadWeightMap(index_path));
  std::map<std::string, std::vector<std::string>> tensors_of;  // shard -> its tensors
  for (const auto& [tensor, shard] : shard_of) tensors_of[shard].push_back(tensor);
  if (tensors_of.size() > limits::kMaxShards) {
    return Corrupt("{}: {} shards, at most {} are allowed", index_path, tensors_of.size(), limits::kMaxShards);
  }
  for (const auto& [shard, names] : tensors_of) {
    const std::string path = dir_ + "/" + shard;
    if (!FileExists(path)) {
      return NotFound("{}: this shard is missing; {} expects {} tensors in it", path, index_path, names.size());
    }
    DUO_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
    DUO_ASSIGN_OR_RETURN(const safetensors::Header header, safetensors::ParseHeader(file.data(), file.size(), path));
    for (const std::string& name : names) {
      // Indexes may list tensors that no longer exist, usually unneeded ones. So this becomes an error only when Get
      // asks for the tensor.
      if (!header.contains(name))
        absent_.emplace(name, fmt::format("{}: weight_map: {} is not in its shard {}", index_path, name, shard));
    }
    for (const auto& [name, entry] : header) {
      const auto listed = shard_of.find(name);
      const bool here = listed == shard_of.end() ? !Has(name) : listed->second == shard;
      if (here) DUO_RETURN_IF_ERROR(Add(name, entry, file));
    }
    if (tensors_.size() > limits::kMaxTensors) {
      return Corrupt("{}: its shards have more than {} tensors", index_path, limits::kMaxTensors);
    }
    files_.push_back(std::move(file));
  }
  return OkStatus();
}

void Checkpoint::AddMissingPrefix() {
  if (Has("model.embed_tokens.weight") || !Has("embed_tokens.weight")) return;
  std::map<std::string, Located, std::less<>> renamed;
  for (auto& [name, located] : tensors_) {
    bool bare = false;
    for (const char* part : {"embed_tokens.", "layers.", "norm."}) bare = bare || name.starts_with(part);
    renamed.emplace(bare ? "model." + name : name, std::move(located));
  }
  tensors_ = std::move(renamed);
}

Status Checkpoint::Add(const std::string& name, const safetensors::Entry& entry, const MappedFile& file) {
  Located located;
  located.entry = entry;
  located.data = file.data() + entry.begin;
  DType dtype = DType::kF32;
  if (ToDType(entry.type, &dtype) && entry.begin % DTypeBytes(dtype) != 0 && entry.bytes != 0) {
    DUO_ASSIGN_OR_RETURN(Buffer copy, Buffer::Allocate(entry.bytes));
    std::memcpy(copy.data(), located.data, entry.bytes);
    located.data = copy.as<const uint8_t>();
    copies_.push_back(std::move(copy));
  }
  total_bytes_ += entry.bytes;
  tensors_.emplace(name, std::move(located));
  return OkStatus();
}

Result<TensorView> Checkpoint::Get(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    const auto absent = absent_.find(name);
    if (absent != absent_.end()) return Status(StatusCode::kCorrupt, absent->second);
    return NotFound("{}: tensor {} is not in this checkpoint", dir_, name);
  }
  const safetensors::Entry& entry = found->second.entry;
  TensorView view;
  if (!ToDType(entry.type, &view.dtype)) {
    return Unsupported("{}: tensor {}: element type {}, expected F32, BF16, F16, I8 or U8", dir_, name,
                       entry.type_name);
  }
  if (entry.shape.size() > kMaxRank) {
    return Unsupported("{}: tensor {}: shape {} has more than {} dimensions", dir_, name, ShapeText(entry.shape),
                       kMaxRank);
  }
  view.data = found->second.data;
  view.rank = entry.shape.size();
  for (size_t i = 0; i < entry.shape.size(); ++i) view.shape[i] = entry.shape[i];
  return view;
}

void Checkpoint::Forget(const TensorView& tensor) const {
  for (const MappedFile& file : files_) {
    if (file.Forget(tensor.data, tensor.bytes())) return;
  }
}

Status Checkpoint::CheckFiles(Replaced replaced) const {
  for (const MappedFile& file : files_) {
    const FileChange change = file.Change();
    if (change == FileChange::kWritten) {
      return UnavailableError(
          "{}: was written to while the model is in use, so its weights are a mixture of old and new; start again when "
          "the file is complete",
          file.path());
    }
    if (change == FileChange::kReplaced && replaced == Replaced::kIsAnError) {
      return UnavailableError("{}: is another file than the one that is in use; start again to use the new one",
                              file.path());
    }
  }
  return OkStatus();
}

bool Checkpoint::Has(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> all;
  all.reserve(tensors_.size());
  for (const auto& item : tensors_) all.push_back(item.first);
  return all;
}

}  // namespace duo
