#include "eval/full_logits.h"

#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "checkpoint/safetensors.h"

namespace duo {
namespace {

constexpr size_t kAlign = 64;  // alignment of the rows in the file, bytes

// The values of the header's metadata must be texts, so the recipe is JSON inside one of them.
constexpr const char* kRecipeKey = "recipe";

Result<std::string> Header(const Json& recipe, int64_t n_rows, int64_t vocab, const std::string& path) {
  const safetensors::Tensor logits = {.name = "logits", .type = safetensors::Type::kF32, .shape = {n_rows, vocab}};
  return safetensors::FormatFileHeader(path, {logits}, {{kRecipeKey, JsonText(recipe)}}, kAlign);
}

Status CheckRecipe(const safetensors::Metadata& metadata, const Json& recipe, FullLogitsUse use,
                   const std::string& path) {
  const auto stored = metadata.find(kRecipeKey);
  if (stored == metadata.end()) return Corrupt("{}: __metadata__: recipe: missing", path);
  DUO_ASSIGN_OR_RETURN(const Json then, ParseJson(stored->second, path + ": recipe"));
  std::string difference = JsonDifference(then, recipe);
  if (difference.empty() && use == FullLogitsUse::kOwn) {
    for (const auto& [key, value] : then.items()) {
      if (!recipe.contains(key)) difference = key + " " + JsonText(value) + ", which is not given now";
    }
  }
  if (difference.empty()) return OkStatus();
  return InvalidArgument("{}: these logits were made with {}; name another file, or remove this one", path, difference);
}

}  // namespace

Result<FullLogits> FullLogits::Open(const std::string& path, const Json& recipe, int64_t n_rows, int64_t vocab,
                                    FullLogitsUse use) {
  FullLogits out;
  out.vocab_ = vocab;
  if (!FileExists(path)) {
    if (use == FullLogitsUse::kReference) {
      return NotFound("{} does not exist; a run that keeps its own logits writes such a file", path);
    }
    DUO_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
    out.writer_ = std::make_unique<AtomicFile>(std::move(file));
    out.missing_ = n_rows;
    DUO_ASSIGN_OR_RETURN(const std::string header, Header(recipe, n_rows, vocab, path));
    DUO_RETURN_IF_ERROR(out.writer_->Write(header));
    return out;
  }
  DUO_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  DUO_ASSIGN_OR_RETURN(const safetensors::FileHeader header,
                       safetensors::ParseFileHeader({file.data(), file.size()}, file.size(), path));
  const auto entry = header.tensors.find("logits");
  if (entry == header.tensors.end() || entry->second.type != safetensors::Type::kF32) {
    return Corrupt("{}: logits: missing, or not F32; this is not a file of full logits", path);
  }
  DUO_RETURN_IF_ERROR(CheckRecipe(header.metadata, recipe, use, path));
  if (entry->second.shape != std::vector<int64_t>{n_rows, vocab}) {
    return Corrupt("{}: logits: expected the shape [{}, {}]", path, n_rows, vocab);
  }
  if (entry->second.begin % alignof(float) != 0) {
    return Corrupt("{}: logits: do not begin at a multiple of 4 bytes", path);
  }
  out.rows_ = reinterpret_cast<const float*>(file.data() + entry->second.begin);
  out.mapped_ = std::move(file);
  return out;
}

std::span<const float> FullLogits::row(int64_t i) const {
  DUO_CHECK(is_complete(), "rows are read from a complete file");
  return {rows_ + i * vocab_, static_cast<size_t>(vocab_)};
}

Status FullLogits::Append(std::span<const float> row) {
  DUO_CHECK(missing_ > 0 && std::ssize(row) == vocab_, "one row too many, or a row of another size");
  --missing_;
  return writer_->Write(row.data(), row.size_bytes());
}

Status FullLogits::Finish() {
  DUO_CHECK(is_complete() || missing_ == 0, "rows are missing");
  return is_complete() ? OkStatus() : writer_->Commit();
}

}  // namespace duo
