// Writing: header first, then the tensors straight from their memory.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/atomic_file.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"

namespace duo::safetensors {
namespace {

struct Spelling {
  const char* name;
  uint64_t bytes;
};

// Types whose size the type alone decides; nullptr for the others.
Spelling SpellingOf(Type type) {
  switch (type) {
    case Type::kF32: return {"F32", 4};
    case Type::kBF16: return {"BF16", 2};
    case Type::kF16: return {"F16", 2};
    case Type::kF64: return {"F64", 8};
    case Type::kI64: return {"I64", 8};
    case Type::kI32: return {"I32", 4};
    case Type::kI16: return {"I16", 2};
    case Type::kI8: return {"I8", 1};
    case Type::kU64: return {"U64", 8};
    case Type::kU32: return {"U32", 4};
    case Type::kU16: return {"U16", 2};
    case Type::kU8: return {"U8", 1};
    case Type::kBool: return {"BOOL", 1};
    case Type::kF8:
    case Type::kOther: break;
  }
  return {nullptr, 0};
}

struct Planned {
  const Tensor* tensor = nullptr;
  uint64_t element_bytes = 0;
  uint64_t bytes = 0;
};

Status Refuse(const std::string& path, const std::string& name, const char* reason) {
  return Status(StatusCode::kInvalidArgument, path + ": tensor \"" + name + "\": " + reason);
}

// Wider elements first: the data section starts 8-byte aligned, so every tensor is aligned to its element.
Result<std::vector<Planned>> Plan(const std::string& path, const std::vector<Tensor>& tensors) {
  std::vector<Planned> plan;
  std::set<std::string_view> names;
  for (const Tensor& tensor : tensors) {
    if (tensor.name == "__metadata__") return Refuse(path, tensor.name, "a name the format reserves");
    if (!names.insert(tensor.name).second) return Refuse(path, tensor.name, "the name is there twice");
    const Spelling spelling = SpellingOf(tensor.type);
    if (spelling.name == nullptr) return Refuse(path, tensor.name, "an element type that cannot be written");
    uint64_t bytes = spelling.bytes;
    for (const int64_t n : tensor.shape) {
      if (n < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes) || bytes > INT64_MAX) {
        return Refuse(path, tensor.name, "its shape is negative or overflows");
      }
    }
    if (bytes != 0 && tensor.data == nullptr) return Refuse(path, tensor.name, "it has no data");
    plan.push_back({&tensor, spelling.bytes, bytes});
  }
  std::stable_sort(plan.begin(), plan.end(),
                   [](const Planned& a, const Planned& b) { return a.element_bytes > b.element_bytes; });
  return plan;
}

Result<std::string> HeaderOf(const std::string& path, const std::vector<Planned>& plan) {
  std::string json = "{";
  uint64_t offset = 0;
  for (const Planned& p : plan) {
    std::string name;
    try {
      name = Json(p.tensor->name).dump();
    } catch (const std::exception&) {
      return Refuse(path, "?", "a name that is not UTF-8");
    }
    if (offset > UINT64_MAX - p.bytes) return Refuse(path, p.tensor->name, "the file would be too large");
    if (json.size() > 1) json += ',';
    json += name;
    json += fmt::format(R"(:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", SpellingOf(p.tensor->type).name,
                        fmt::join(p.tensor->shape, ","), offset, offset + p.bytes);
    offset += p.bytes;
  }
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');
  std::string header(8, '\0');
  for (size_t i = 0; i < 8; ++i) header[i] = static_cast<char>(static_cast<uint64_t>(json.size()) >> (8 * i) & 0xff);
  return header + json;
}

}  // namespace

Tensor Tensor::From(std::string name, const TensorView& view) {
  const Type type = view.dtype == DType::kF32 ? Type::kF32 : view.dtype == DType::kBF16 ? Type::kBF16 : Type::kF16;
  return {std::move(name), type, {view.shape.begin(), view.shape.begin() + view.rank}, view.data};
}

Tensor Tensor::I64(std::string name, std::vector<int64_t> shape, const int64_t* data) {
  return {std::move(name), Type::kI64, std::move(shape), data};
}

Status WriteSafetensors(const std::string& path, const std::vector<Tensor>& tensors) {
  DUO_ASSIGN_OR_RETURN(const std::vector<Planned> plan, Plan(path, tensors));
  DUO_ASSIGN_OR_RETURN(const std::string header, HeaderOf(path, plan));
  DUO_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  DUO_RETURN_IF_ERROR(file.Write(header));
  for (const Planned& p : plan) DUO_RETURN_IF_ERROR(file.Write(p.tensor->data, p.bytes));
  return file.Commit();
}

}  // namespace duo::safetensors
