// Opens the tensors of a Hugging Face directory by name, from model.safetensors or from shards and
// model.safetensors.index.json.
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

/// Owns the mapped files of a checkpoint. Move-only. Const methods may be called from several threads at once.
///
/// Opening reads only headers. Weights are paged in when they are first touched. Tensors that are not aligned to their
/// element size are copied instead; some writers make such files.
///
/// Names are those of a model with an output matrix ("model.layers.0..."). Files of a model without one leave out
/// "model."; Checkpoint adds it.
class Checkpoint {
 public:
  /// Opens `dir`/model.safetensors if it exists, else the shards that `dir`/model.safetensors.index.json lists. Tensors
  /// that are in a shard but not in the index are included. Returns kNotFound if neither file exists or a shard is
  /// missing. Returns kCorrupt if a header does not match its file or a shard is outside the directory.
  static Result<Checkpoint> Open(const std::string& dir);

  /// The view borrows from this checkpoint and lives as long as it does. Moving the checkpoint keeps the view valid.
  /// Data is aligned to the element size.
  ///
  /// Returns kNotFound with tensor and directory. Returns kCorrupt if the index lists the tensor and its shard does not
  /// have it. Returns kUnsupported for element types other than F32, BF16, F16, I8, U8 and for more than 4 dimensions.
  Result<TensorView> Get(std::string_view name) const;

  /// Removes the tensor's bytes from resident memory until they are read again. For tensors that are no longer needed.
  void Forget(const TensorView& tensor) const;

  /// Whether it is an error that another file now has the name of a mapped file. The mapping still shows the old one.
  enum class Replaced : uint8_t { kIsFine, kIsAnError };
  /// kUnavailable, with the file's name, when a mapped file was written to after it was opened. Its tensors are then a
  /// mixture of old and new. Makes one system call per file.
  Status CheckFiles(Replaced replaced) const;

  bool Has(std::string_view name) const;
  /// All names, in byte order.
  std::vector<std::string> names() const;
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
  std::map<std::string, std::string, std::less<>> absent_;  // tensors that only the index has -> sentence for Get
  uint64_t total_bytes_ = 0;
};

}  // namespace duo
