#include "server/request_json.h"

#include <fmt/format.h>

#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "base/error.h"

namespace duo {
namespace {

constexpr size_t kMaxNesting = 64;
// Approximate memory of the JSON library's values: one element of a growing array, and what each kind adds to it.
constexpr size_t kValueBytes = 32;
constexpr size_t kMemberBytes = 72;
constexpr size_t kStringBytes = 48;
constexpr size_t kContainerBytes = 64;

/// Builds the value from the parser's events. A function that returns false ends the parse.
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(size_t max_bytes) : max_bytes_(max_bytes) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // JSON text has no binary values
  bool number_unsigned(number_unsigned_t value) override {
    if (!packing_ || value > number_unsigned_t{INT32_MAX}) return Add(value);
    const auto id = static_cast<int32_t>(value);
    const auto* bytes = reinterpret_cast<const uint8_t*>(&id);
    packed_.insert(packed_.end(), bytes, bytes + sizeof id);
    return true;
  }
  bool start_array(size_t) override { return Open(Json::array(), true); }
  bool start_object(size_t) override { return Open(Json::object(), false); }
  bool key(string_t& name) override {
    n_bytes_ += kMemberBytes;
    member_ = &(*open_.back())[std::move(name)];
    return true;
  }
  bool end_array() override {
    if (packing_ && !packed_.empty()) *open_.back() = Json::binary(std::exchange(packed_, {}));
    return Close();
  }
  bool end_object() override { return Close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    const std::string what = error.what();  // "[json.exception.parse_error.101] parse error at ..."
    const size_t name_end = what.find("] ");
    return Refuse("not valid JSON: " + (name_end == std::string::npos ? what : what.substr(name_end + 2)));
  }

  const std::string& error() const { return error_; }
  Json Take() { return std::move(root_); }

 private:
  bool Refuse(std::string sentence) {
    error_ = std::move(sentence);
    return false;
  }

  /// Puts a value into the open container. Returns null when the values take too much memory.
  Json* Place(Json value) {
    n_bytes_ += kValueBytes + (value.is_string() ? kStringBytes : value.is_structured() ? kContainerBytes : 0);
    if (n_bytes_ > max_bytes_) {
      Refuse("the body holds more values than a request of this size needs");
      return nullptr;
    }
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_object()) return &(*member_ = std::move(value));
    open_.back()->push_back(std::move(value));
    return &open_.back()->back();
  }

  bool Add(Json value) { return Unpack() && Place(std::move(value)) != nullptr; }

  bool Open(Json container, bool packing) {
    if (open_.size() == kMaxNesting) return Refuse(fmt::format("JSON nested deeper than {} levels", kMaxNesting));
    if (!Unpack()) return false;
    Json* placed = Place(std::move(container));
    if (placed == nullptr) return false;
    open_.push_back(placed);
    packing_ = packing;
    return true;
  }

  bool Close() {
    open_.pop_back();
    packing_ = false;  // the enclosing container holds more than ids
    return true;
  }

  /// Called when the open array holds something other than ids: its ids so far become ordinary values.
  bool Unpack() {
    if (!std::exchange(packing_, false)) return true;
    for (const int32_t id : UnpackIds(Json::binary(std::exchange(packed_, {})))) {
      if (Place(id) == nullptr) return false;
    }
    return true;
  }

  const size_t max_bytes_;
  size_t n_bytes_ = 0;  // memory that the values take
  Json root_;
  std::vector<Json*> open_;  // containers around the next value; only the last one grows, so the others stay in place
  Json* member_ = nullptr;   // current member of the last container, when that is an object
  bool packing_ = false;     // the last container is an array that holds only packed_
  std::vector<uint8_t> packed_;
  std::string error_;
};

}  // namespace

Result<Json> ParseRequestJson(std::string_view body) {
  // The library takes a NUL for the end of the text.
  if (const size_t nul = body.find('\0'); nul != std::string_view::npos) {
    return Corrupt("not valid JSON: a NUL at byte {}", nul);
  }
  Builder builder(MaxJsonMemory(body.size()));
  try {
    if (Json::sax_parse(body, &builder)) return builder.Take();
  } catch (const std::exception& e) {
    return Corrupt("not valid JSON: {}", e.what());
  }
  return Status(StatusCode::kCorrupt, builder.error());
}

std::vector<int32_t> UnpackIds(const Json& packed) {
  const Json::binary_t& bytes = packed.get_binary();
  std::vector<int32_t> ids(bytes.size() / sizeof(int32_t));
  if (!ids.empty()) std::memcpy(ids.data(), bytes.data(), bytes.size());
  return ids;
}

const char* RequestTypeName(const Json& value) { return IsPackedIds(value) ? "array" : JsonTypeName(value); }

}  // namespace duo
