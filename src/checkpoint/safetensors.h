// The safetensors format: 8 bytes little-endian header length, a JSON header, then the tensors' bytes.
// Source: the format section of the safetensors project (huggingface/safetensors, README).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/tensor_view.h"
#include "duo/result.h"

namespace duo::safetensors {

/// Element types of the format. Checkpoint::Get makes a TensorView only of kF32, kBF16, kF16, kI8 and kU8.
enum class Type : uint8_t { kF32, kBF16, kF16, kF64, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool, kF8, kOther };

/// One tensor of a header. Its range was checked against the file.
struct Entry {
  Type type = Type::kOther;
  std::string type_name;       // as the header spells it, for messages
  std::vector<int64_t> shape;  // [] is a scalar; dimensions may be 0
  uint64_t begin = 0;          // absolute byte offset in the file
  uint64_t bytes = 0;
};

using Header = std::map<std::string, Entry, std::less<>>;

/// The texts of `__metadata__`, by key.
using Metadata = std::map<std::string, std::string, std::less<>>;

struct FileHeader {
  Header tensors;
  Metadata metadata;
  uint64_t data_begin = 0;  // absolute byte offset of the data
};

/// Parses the header in `bytes`, the first bytes of a file of file_bytes bytes. `where` begins every sentence. Types
/// that the format does not define become kOther, and only their range is checked. `__metadata__` must be an object;
/// values of it that are not texts are ignored.
///
/// Returns kCorrupt in these cases. The file is shorter than it says. The header is too long or is not JSON. A name is
/// repeated. A shape overflows or does not match its byte range. Ranges are outside the file, overlap or leave gaps.
Result<FileHeader> ParseFileHeader(std::span<const uint8_t> bytes, uint64_t file_bytes, const std::string& where);

/// The tensors in the header of a whole file. Errors as ParseFileHeader.
Result<Header> ParseHeader(const uint8_t* data, size_t size, const std::string& where);

/// A tensor for WriteSafetensors, which borrows its bytes until it returns.
struct Tensor {
  std::string name;
  Type type = Type::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  /// Used instead of `data`. WriteSafetensors calls it when it writes the tensor, and frees the buffer before it calls
  /// the next. It first writes tensors of 1-byte elements whose size is a multiple of 8, then wider elements, then the
  /// rest.
  std::function<Result<Buffer>()> make = {};

  static Tensor From(std::string name, const TensorView& view);
  static Tensor I64(std::string name, std::vector<int64_t> shape, const int64_t* data);
};

/// The bytes before the data of a file with these tensors in this order. Blanks after the header make the data begin at
/// a multiple of `align` bytes, which is a multiple of 8. For callers that write the data themselves; the tensors need
/// not have any. Errors as WriteSafetensors.
Result<std::string> FormatFileHeader(const std::string& path, const std::vector<Tensor>& tensors,
                                     const Metadata& metadata, size_t align);

/// Writes the tensors as an AtomicFile, so that a failure leaves `path` as it was. Copies only the header. Returns kIo
/// with path and reason, or kInvalidArgument for repeated or reserved names and for types without a fixed size.
Status WriteSafetensors(const std::string& path, const std::vector<Tensor>& tensors);

}  // namespace duo::safetensors
