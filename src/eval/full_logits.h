// Full attention's logits on disk, so that they are computed once: a safetensors file with `logits` [n, vocab] f32 and
// what they were made from in its metadata.
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

/// What a file of logits is for. kOwn: this configuration's own, which must be what `recipe` says in everything.
/// kReference: another's, of which only what `recipe` has must agree.
enum class FullLogitsUse : uint8_t { kOwn, kReference };

/// Either a reader of rows that are there, or a writer of rows to come.
class FullLogits {
 public:
  /// Opens `path` when it is there, begins to write it otherwise (kReference: kNotFound). kInvalidArgument, with what
  /// differs, when it was made from another recipe; kCorrupt when it is no such file; kIo.
  static Result<FullLogits> Open(const std::string& path, const Json& recipe, int64_t n_rows, int64_t vocab,
                                 FullLogitsUse use = FullLogitsUse::kOwn);

  bool is_complete() const { return mapped_.has_value(); }
  /// Row i, [vocab]. Only when is_complete().
  std::span<const float> row(int64_t i) const;
  /// The next row. Only when not is_complete().
  Status Append(std::span<const float> row);
  /// After the last row: the file appears under its name.
  Status Finish();

 private:
  int64_t vocab_ = 0;
  int64_t missing_ = 0;  // rows still to be appended
  std::optional<MappedFile> mapped_;
  const float* rows_ = nullptr;
  std::unique_ptr<AtomicFile> writer_;
};

}  // namespace duo
