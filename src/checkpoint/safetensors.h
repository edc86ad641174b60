// The safetensors format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes.
// Source: the format section of the safetensors project (huggingface/safetensors, README).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/tensor_view.h"
#include "duo/result.h"

namespace duo::safetensors {

/// Element types of the format. Only the first three become a TensorView.
enum class Type : uint8_t { kF32, kBF16, kF16, kF64, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool, kF8, kOther };

/// One tensor of a header, its range checked against the file.
struct Entry {
  Type type = Type::kOther;
  std::string type_name;       // as the header spells it, for messages
  std::vector<int64_t> shape;  // [] is a scalar; dimensions may be 0
  uint64_t begin = 0;          // absolute byte offset in the file
  uint64_t bytes = 0;
};

using Header = std::map<std::string, Entry, std::less<>>;

/// Parses the header of a whole file's bytes. `where` begins every sentence. kCorrupt: a file shorter than it says, a
/// header over the limit or not JSON, repeated names, shapes that overflow or disagree with the byte range, ranges
/// outside the file or overlapping. Types the format does not define are kept as kOther with their range checked only.
/// `__metadata__` must be an object and is otherwise ignored.
Result<Header> ParseHeader(const uint8_t* data, size_t size, const std::string& where);

/// What WriteSafetensors writes: type, shape and bytes, borrowed until it returns.
struct Tensor {
  std::string name;
  Type type = Type::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  /// Instead of data: called when it is the tensor's turn to be written, one after another; what it gives is freed
  /// before the next. Tensors of bytes whose sizes are multiples of 8 come first, then wider elements, then the rest.
  std::function<Result<Buffer>()> make = {};

  static Tensor From(std::string name, const TensorView& view);
  static Tensor I64(std::string name, std::vector<int64_t> shape, const int64_t* data);
};

/// Writes the tensors as an AtomicFile: a failure leaves `path` as it was. Nothing but the header is copied. kIo names
/// path and reason; kInvalidArgument for repeated or reserved names and for types without a fixed size.
Status WriteSafetensors(const std::string& path, const std::vector<Tensor>& tensors);

}  // namespace duo::safetensors
