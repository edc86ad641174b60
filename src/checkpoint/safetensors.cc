#include "checkpoint/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/shape_text.h"
#include "checkpoint/limits.h"
#include "checkpoint/safetensors_types.h"

namespace duo::safetensors {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxRank = 64;  // limit for tensors that duo does not use; Checkpoint::Get allows 4

// One tensor as the JSON describes it, before any check.
struct RawEntry {
  std::string dtype;
  std::vector<uint64_t> shape;
  std::vector<uint64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Receives the header's JSON as events. So a header of 100 MB never becomes a tree, and repeated keys are noticed.
class HeaderReader {
 public:
  explicit HeaderReader(bool keep_metadata) : keep_metadata_(keep_metadata) {}

  bool null() { return Scalar("null"); }
  bool boolean(bool) { return Scalar("a boolean"); }
  bool number_float(double, const std::string&) { return Scalar("a fraction or too large a number"); }
  bool number_integer(int64_t) { return Scalar("a negative number"); }
  bool number_unsigned(uint64_t value) {
    if (state_ == State::kShapeItems) {
      if (entry_.shape.size() == kMaxRank) return Fail("tensor {}: more than 64 dimensions", name_);
      entry_.shape.push_back(value);
      return true;
    }
    if (state_ == State::kOffsetItems) {
      if (entry_.offsets.size() == 2) return Fail("tensor {}: data_offsets: more than two numbers", name_);
      entry_.offsets.push_back(value);
      return true;
    }
    return Scalar("a number");
  }
  bool string(std::string& value) {
    if (state_ == State::kMetadataItems) {
      if (keep_metadata_) metadata_[metadata_key_] = std::move(value);
      return true;
    }
    if (state_ != State::kDtype) return Scalar("a string");
    entry_.dtype = std::move(value);
    state_ = State::kFields;
    return true;
  }
  bool binary(Json::binary_t&) { return Scalar("binary data"); }

  bool start_object(size_t) {
    switch (state_) {
      case State::kTop: state_ = State::kNames; return true;
      case State::kEntry: state_ = State::kFields; return true;
      case State::kMetadata: state_ = State::kMetadataItems; return true;
      case State::kMetadataItems: return Skip(State::kMetadataItems);
      case State::kSkipOne: return Skip(State::kFields);
      case State::kSkipping: ++skip_depth_; return true;
      default: return Unexpected("an object");
    }
  }
  bool start_array(size_t) {
    switch (state_) {
      case State::kShape: state_ = State::kShapeItems; return true;
      case State::kOffsets: state_ = State::kOffsetItems; return true;
      case State::kMetadataItems: return Skip(State::kMetadataItems);
      case State::kSkipOne: return Skip(State::kFields);
      case State::kSkipping: ++skip_depth_; return true;
      default: return Unexpected("an array");
    }
  }
  bool key(std::string& value) {
    if (state_ == State::kSkipping) return true;
    if (state_ == State::kNames) return StartTensor(value);
    if (state_ == State::kMetadataItems) {
      metadata_key_ = std::move(value);
      return true;
    }
    return StartField(value);
  }
  bool end_object() {
    if (state_ == State::kSkipping) return EndSkipped();
    if (state_ == State::kFields) return EndTensor();
    state_ = state_ == State::kMetadataItems ? State::kNames : State::kDone;
    return true;
  }
  bool end_array() {
    if (state_ == State::kSkipping) return EndSkipped();
    state_ = State::kFields;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const Json::exception& e) {
    return Fail("header is not valid JSON at byte {}: {}", kLengthBytes + position, JsonErrorText(e));
  }

  const std::string& error() const { return error_; }
  std::vector<std::pair<std::string, RawEntry>>& entries() { return entries_; }
  Metadata& metadata() { return metadata_; }

 private:
  enum class State : uint8_t {
    kTop,
    kNames,
    kEntry,
    kFields,
    kDtype,
    kShape,
    kShapeItems,
    kOffsets,
    kOffsetItems,
    kMetadata,
    kMetadataItems,
    kSkipOne,   // the value of an unknown field
    kSkipping,  // inside such a value
    kDone
  };

  template <typename... T>
  bool Fail(fmt::format_string<T...> format, const T&... values) {
    if (error_.empty()) error_ = fmt::vformat(format, fmt::make_format_args(values...));
    return false;
  }
  bool Unexpected(const char* found) {
    const char* expected = "an object";
    std::string place = "header";
    if (state_ == State::kMetadata) place = "__metadata__";
    if (state_ != State::kTop && state_ != State::kMetadata) place = "tensor " + name_;
    if (state_ == State::kDtype) place += ": dtype", expected = "a string";
    if (state_ == State::kShape) place += ": shape", expected = "an array";
    if (state_ == State::kOffsets) place += ": data_offsets", expected = "an array";
    if (state_ == State::kShapeItems) place += ": shape", expected = "whole numbers that are not negative";
    if (state_ == State::kOffsetItems) place += ": data_offsets", expected = "whole numbers that are not negative";
    return Fail("{}: expected {}, found {}", place, expected, found);
  }
  bool Scalar(const char* found) {
    if (state_ == State::kSkipping || state_ == State::kMetadataItems) return true;
    if (state_ != State::kSkipOne) return Unexpected(found);
    state_ = State::kFields;
    return true;
  }
  bool Skip(State after) {
    after_skip_ = after;
    skip_depth_ = 1;
    state_ = State::kSkipping;
    return true;
  }
  bool EndSkipped() {
    if (--skip_depth_ == 0) state_ = after_skip_;
    return true;
  }
  bool StartTensor(std::string& name) {
    if (name == "__metadata__") {
      if (std::exchange(has_metadata_, true)) return Fail("__metadata__ appears twice");
      state_ = State::kMetadata;
      return true;
    }
    if (name.size() > limits::kMaxTensorNameBytes) return Fail("a tensor name of more than 4096 bytes");
    if (entries_.size() == limits::kMaxTensors) return Fail("more than 1048576 tensors");
    name_ = std::move(name);
    entry_ = RawEntry();
    state_ = State::kEntry;
    return true;
  }
  bool StartField(const std::string& field) {
    bool* seen = nullptr;
    state_ = State::kSkipOne;
    if (field == "dtype") state_ = State::kDtype, seen = &entry_.has_dtype;
    if (field == "shape") state_ = State::kShape, seen = &entry_.has_shape;
    if (field == "data_offsets") state_ = State::kOffsets, seen = &entry_.has_offsets;
    if (seen != nullptr && std::exchange(*seen, true)) return Fail("tensor {}: {} appears twice", name_, field);
    return true;
  }
  bool EndTensor() {
    if (!entry_.has_dtype) return Fail("tensor {}: dtype is missing", name_);
    if (!entry_.has_shape) return Fail("tensor {}: shape is missing", name_);
    if (!entry_.has_offsets || entry_.offsets.size() != 2) {
      return Fail("tensor {}: data_offsets: expected two numbers", name_);
    }
    entries_.emplace_back(std::move(name_), std::move(entry_));
    state_ = State::kNames;
    return true;
  }

  State state_ = State::kTop;
  State after_skip_ = State::kNames;
  size_t skip_depth_ = 0;
  bool keep_metadata_;
  bool has_metadata_ = false;
  std::string metadata_key_;
  Metadata metadata_;
  std::string name_;
  RawEntry entry_;
  std::vector<std::pair<std::string, RawEntry>> entries_;
  std::string error_;
};

// Checks one tensor against its type and the data section of data_bytes, which begins at data_begin in the file.
Result<Entry> CheckEntry(const RawEntry& raw, uint64_t data_begin, uint64_t data_bytes, const std::string& where) {
  Entry entry;
  entry.type_name = raw.dtype.substr(0, 32);
  entry.type = Type::kOther;
  uint64_t expected = 0;
  for (const TypeInfo& info : kTypes) {
    if (info.name == raw.dtype) entry.type = info.type, expected = info.bytes;
  }
  bool overflow = false;
  for (const uint64_t n : raw.shape) {
    overflow = overflow || n > INT64_MAX || __builtin_mul_overflow(expected, n, &expected);
    entry.shape.push_back(n);
  }
  if (overflow || expected > INT64_MAX) {
    return Corrupt("{}: shape {} has more elements than 63 bits can count", where, ShapeText(entry.shape));
  }
  const uint64_t begin = raw.offsets[0];
  const uint64_t end = raw.offsets[1];
  if (begin > end) return Corrupt("{}: data_offsets [{}, {}] end before they begin", where, begin, end);
  if (end > data_bytes) {
    return Corrupt("{}: data_offsets [{}, {}] reach beyond the file's {} bytes of data", where, begin, end, data_bytes);
  }
  if (entry.type != Type::kOther && end - begin != expected) {
    return Corrupt("{}: data_offsets [{}, {}] hold {} bytes, expected {} for {} {}", where, begin, end, end - begin,
                   expected, entry.type_name, ShapeText(entry.shape));
  }
  entry.begin = data_begin + begin;
  entry.bytes = end - begin;
  return entry;
}

// The format demands that tensors cover the data section without holes and without overlap.
Status CheckCover(const Header& header, uint64_t data_begin, uint64_t file_bytes, const std::string& where) {
  std::vector<const Header::value_type*> order;
  order.reserve(header.size());
  for (const auto& item : header) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    if (a->second.begin != b->second.begin) return a->second.begin < b->second.begin;
    return a->second.bytes < b->second.bytes;
  });
  uint64_t next = data_begin;
  const std::string* previous = nullptr;
  for (const auto* item : order) {
    if (item->second.begin < next) {
      return Corrupt("{}: tensor {}: its bytes overlap those of tensor {}", where, item->first, *previous);
    }
    if (item->second.begin > next) {
      return Corrupt("{}: {} bytes before tensor {} belong to no tensor", where, item->second.begin - next,
                     item->first);
    }
    next += item->second.bytes;
    previous = &item->first;
  }
  if (next != file_bytes) {
    return Corrupt("{}: {} bytes at the end of the file belong to no tensor", where, file_bytes - next);
  }
  return OkStatus();
}

// The texts of `__metadata__` may be millions, so they are kept only for a caller that reads them.
Result<FileHeader> Parse(std::span<const uint8_t> bytes, uint64_t file_bytes, const std::string& where,
                         bool keep_metadata) {
  const uint64_t known_bytes = std::min<uint64_t>(bytes.size(), file_bytes);
  if (known_bytes < kLengthBytes) {
    return Corrupt("{}: {} bytes are too few for a safetensors file", where, known_bytes);
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) header_bytes |= uint64_t{bytes[i]} << (8 * i);
  if (header_bytes > limits::kMaxSafetensorsHeaderBytes) {
    return Corrupt("{}: header of {} bytes, the format allows {}", where, header_bytes,
                   limits::kMaxSafetensorsHeaderBytes);
  }
  if (header_bytes > known_bytes - kLengthBytes) {
    return Corrupt("{}: header of {} bytes in a file of {}", where, header_bytes, known_bytes);
  }
  const uint64_t data_begin = kLengthBytes + header_bytes;
  HeaderReader reader(keep_metadata);
  const char* text = reinterpret_cast<const char*>(bytes.data()) + kLengthBytes;
  bool complete = false;
  try {
    complete = Json::sax_parse(text, text + header_bytes, &reader, Json::input_format_t::json, /*strict=*/true);
  } catch (const std::exception& e) {
    return Corrupt("{}: header cannot be read: {}", where, JsonErrorText(e));
  }
  if (!complete) {
    return Corrupt("{}: {}", where, reader.error().empty() ? "header is not a JSON object" : reader.error());
  }

  FileHeader header;
  header.data_begin = data_begin;
  header.metadata = std::move(reader.metadata());
  for (auto& [name, raw] : reader.entries()) {
    const std::string tensor = where + ": tensor " + name;
    DUO_ASSIGN_OR_RETURN(Entry entry, CheckEntry(raw, data_begin, file_bytes - data_begin, tensor));
    if (!header.tensors.emplace(name, std::move(entry)).second) return Corrupt("{}: the name appears twice", tensor);
  }
  DUO_RETURN_IF_ERROR(CheckCover(header.tensors, data_begin, file_bytes, where));
  return header;
}

}  // namespace

Result<FileHeader> ParseFileHeader(std::span<const uint8_t> bytes, uint64_t file_bytes, const std::string& where) {
  return Parse(bytes, file_bytes, where, /*keep_metadata=*/true);
}

Result<Header> ParseHeader(const uint8_t* data, size_t size, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(FileHeader header, Parse({data, size}, size, where, /*keep_metadata=*/false));
  return std::move(header.tensors);
}

}  // namespace duo::safetensors
