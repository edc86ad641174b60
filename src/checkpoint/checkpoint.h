// Bytes to named tensors: a Hugging Face directory with model.safetensors, or shards and model.safetensors.index.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/mapped_file.h"
#include "base/tensor_view.h"
#include "checkpoint/safetensors.h"
#include "duo/result.h"

namespace duo {

/// Owner of the mapped files of a checkpoint. Move-only. Const methods may be called from several threads at once.
/// Opening reads headers only; weights are paged in when they are first touched. The exception are tensors that their
/// file does not align to their element size (writers other than the format's own leave such): these are copied.
/// Names are those of a model with its output matrix ("model.layers.0..."), also where the file holds a model without
/// one, which leaves "model." out.
class Checkpoint {
 public:
  /// `dir`/model.safetensors when it exists, else the shards that `dir`/model.safetensors.index.json lists.
  /// Tensors that a shard has and the index does not list are there too. kNotFound: neither file, or a shard is
  /// missing. kCorrupt: a header that lies about its file, or a shard outside the directory.
  static Result<Checkpoint> Open(const std::string& dir);

  /// The view borrows from this checkpoint and lives as long as it does; moving the checkpoint keeps it valid.
  /// Data is aligned to the element size. kNotFound names tensor and directory; kCorrupt for a tensor that the index
  /// lists and its shard does not have; kUnsupported for element types other than F32, BF16, F16, I8, U8 and for more
  /// than 4 dimensions.
  Result<TensorView> Get(std::string_view name) const;

  /// The tensor's bytes leave resident memory until somebody reads them again: for one that is done with.
  void Forget(const TensorView& tensor) const;

  /// Says whether a file counts as changed when another file has its name now. The mapping still shows the old one.
  enum class Replaced : uint8_t { kIsFine, kIsAnError };
  /// kUnavailable, naming the first mapped file that somebody has written to since it was opened, so that its tensors
  /// are a mixture of old and new. A system call for each file.
  Status CheckFiles(Replaced replaced) const;

  bool Has(std::string_view name) const;
  /// In byte order.
  std::vector<std::string> names() const;
  size_t n_tensors() const { return tensors_.size(); }
  /// Bytes of all tensors.
  uint64_t total_bytes() const { return total_bytes_; }
  const std::string& dir() const { return dir_; }

 private:
  struct Located {
    safetensors::Entry entry;
    const uint8_t* data = nullptr;  // in one of files_ or copies_
  };

  Checkpoint() = default;
  Status OpenSingle(const std::string& path);
  Status OpenSharded(const std::string& index_path);
  Status Add(const std::string& name, const safetensors::Entry& entry, const MappedFile& file);
  void AddMissingPrefix();

  std::string dir_;
  std::vector<MappedFile> files_;
  std::vector<Buffer> copies_;
  std::map<std::string, Located, std::less<>> tensors_;
  std::map<std::string, std::string, std::less<>> absent_;  // listed by the index only, with the sentence for Get
  uint64_t total_bytes_ = 0;
};

}  // namespace duo
