// Full attention's logits on disk, so that they are computed only once. The safetensors file holds `logits` [n, vocab]
// f32. Its metadata holds the recipe that they were made from.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "duo/result.h"

namespace duo {

/// The use of a file of logits. kOwn: the logits of this configuration. All of `recipe` must agree with the file.
/// kReference: the logits of another configuration. Only the members that `recipe` has must agree.
enum class FullLogitsUse : uint8_t { kOwn, kReference };

/// Reads the rows of an existing file, or writes the rows of a new one.
class FullLogits {
 public:
  /// Opens `path` if it exists. Otherwise begins to write it (kReference: kNotFound). kInvalidArgument, with the
  /// difference, when the file was made from another recipe. kCorrupt when it is not a file of logits. kIo.
  static Result<FullLogits> Open(const std::string& path, const Json& recipe, int64_t n_rows, int64_t vocab,
                                 FullLogitsUse use = FullLogitsUse::kOwn);

  bool is_complete() const { return mapped_.has_value(); }
  /// Row i, [vocab]. Only when is_complete().
  std::span<const float> row(int64_t i) const;
  /// Appends the next row. Only when not is_complete().
  Status Append(std::span<const float> row);
  /// Call it after the last row: the file then appears under its name.
  Status Finish();

 private:
  int64_t vocab_ = 0;
  int64_t missing_ = 0;  // rows still to append
  std::optional<MappedFile> mapped_;
  const float* rows_ = nullptr;
  std::unique_ptr<AtomicFile> writer_;
};

}  // namespace duo
