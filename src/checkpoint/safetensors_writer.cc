// Writes the header first, then the tensors directly from their memory.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/align.h"
#include "base/atomic_file.h"
#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "checkpoint/limits.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_types.h"

namespace duo::safetensors {
namespace {

// Returns nullptr for a type that has no fixed size or more than one spelling.
const TypeInfo* WritableInfo(Type type) {
  if (type == Type::kF8) return nullptr;
  for (const TypeInfo& info : kTypes) {
    if (info.type == type) return &info;
  }
  return nullptr;
}

struct Planned {
  const Tensor* tensor = nullptr;
  const TypeInfo* type = nullptr;
  uint64_t bytes = 0;
};

Status Refuse(const std::string& path, const std::string& name, const char* reason) {
  return InvalidArgument("{}: tensor \"{}\": {}", path, name, reason);
}

// Checks names, types and shapes. The order stays.
Result<std::vector<Planned>> Plan(const std::string& path, const std::vector<Tensor>& tensors) {
  std::vector<Planned> plan;
  std::set<std::string_view> names;
  for (const Tensor& tensor : tensors) {
    if (tensor.name == "__metadata__") return Refuse(path, tensor.name, "a name the format reserves");
    if (!names.insert(tensor.name).second) return Refuse(path, tensor.name, "the name appears twice");
    const TypeInfo* type = WritableInfo(tensor.type);
    if (type == nullptr) return Refuse(path, tensor.name, "an element type that cannot be written");
    uint64_t bytes = type->bytes;
    for (const int64_t n : tensor.shape) {
      if (n < 0 || __builtin_mul_overflow(bytes, n, &bytes) || bytes > INT64_MAX) {
        return Refuse(path, tensor.name, "its shape is negative or overflows");
      }
    }
    plan.push_back({&tensor, type, bytes});
  }
  return plan;
}

// Orders the tensors: 1-byte elements with a size that is a multiple of 8 first, then wider elements before narrower
// ones. The data section starts 8-byte aligned, so every tensor is aligned to its element. Large tensors of codes come
// first, because making them also makes their scales.
void SortForAlignment(std::vector<Planned>* plan) {
  const auto rank = [](const Planned& p) { return p.type->bytes == 1 && p.bytes % 8 == 0 ? 16 : p.type->bytes; };
  std::stable_sort(plan->begin(), plan->end(), [&](const Planned& a, const Planned& b) { return rank(a) > rank(b); });
}

Result<std::string> HeaderOf(const std::string& path, const std::vector<Planned>& plan, const Metadata& metadata,
                             size_t align) {
  std::string json = "{";
  if (!metadata.empty()) json += R"("__metadata__":)" + JsonText(metadata);
  uint64_t offset = 0;
  for (const Planned& p : plan) {
    std::string name;
    try {
      name = Json(p.tensor->name).dump();
    } catch (const std::exception&) {
      return Refuse(path, "?", "a name that is not UTF-8");
    }
    if (offset > uint64_t{INT64_MAX} - p.bytes) return Refuse(path, p.tensor->name, "the file would be too large");
    if (json.size() > 1) json += ',';
    json += name;
    json += fmt::format(R"(:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", p.type->name,
                        fmt::join(p.tensor->shape, ","), offset, offset + p.bytes);
    offset += p.bytes;
  }
  json += "}";
  json.resize(RoundUp(8 + json.size(), align) - 8, ' ');
  if (json.size() > limits::kMaxSafetensorsHeaderBytes) {
    return InvalidArgument("{}: a header of {} bytes, the format allows {}", path, json.size(),
                           limits::kMaxSafetensorsHeaderBytes);
  }
  std::string header(8, '\0');
  for (size_t i = 0; i < 8; ++i) header[i] = json.size() >> (8 * i) & 0xff;
  return header + json;
}

}  // namespace

Tensor Tensor::From(std::string name, const TensorView& view) {
  const Type type = view.dtype == DType::kF32    ? Type::kF32
                    : view.dtype == DType::kBF16 ? Type::kBF16
                    : view.dtype == DType::kF16  ? Type::kF16
                    : view.dtype == DType::kI8   ? Type::kI8
                                                 : Type::kU8;
  return {std::move(name), type, {view.shape.begin(), view.shape.begin() + view.rank}, view.data, {}};
}

Tensor Tensor::I64(std::string name, std::vector<int64_t> shape, const int64_t* data) {
  return {std::move(name), Type::kI64, std::move(shape), data, {}};
}

Result<std::string> FormatFileHeader(const std::string& path, const std::vector<Tensor>& tensors,
                                     const Metadata& metadata, size_t align) {
  DUO_ASSIGN_OR_RETURN(const std::vector<Planned> plan, Plan(path, tensors));
  return HeaderOf(path, plan, metadata, align);
}

Status WriteSafetensors(const std::string& path, const std::vector<Tensor>& tensors) {
  DUO_ASSIGN_OR_RETURN(std::vector<Planned> plan, Plan(path, tensors));
  for (const Planned& p : plan) {
    const bool has_data = p.tensor->data != nullptr || p.tensor->make;
    if (p.bytes != 0 && !has_data) return Refuse(path, p.tensor->name, "it has no data");
  }
  SortForAlignment(&plan);
  DUO_ASSIGN_OR_RETURN(const std::string header, HeaderOf(path, plan, {}, 8));
  DUO_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  DUO_RETURN_IF_ERROR(file.Write(header));
  for (const Planned& p : plan) {
    if (!p.tensor->make) {
      DUO_RETURN_IF_ERROR(file.Write(p.tensor->data, p.bytes));
      continue;
    }
    DUO_ASSIGN_OR_RETURN(const Buffer made, p.tensor->make());
    DUO_CHECK(made.bytes() >= p.bytes, "`make` must return the bytes of the tensor's shape");
    DUO_RETURN_IF_ERROR(file.Write(made.data(), p.bytes));
  }
  return file.Commit();
}

}  // namespace duo::safetensors
