#include "server/request_fields.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "server/request_json.h"

namespace duo {

std::optional<int64_t> WholeNumber(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    return number <= uint64_t{INT64_MAX} ? std::optional<int64_t>(number) : std::nullopt;
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  constexpr double kAllExact = 9007199254740992.0;  // 2^53
  const auto number = value.get<double>();
  if (!(std::fabs(number) <= kAllExact) || number != std::floor(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

RequestFields::RequestFields(const Json& object, std::string prefix) : object_(object), prefix_(std::move(prefix)) {
  if (!object.is_object()) Refuse("", "expected an object, found " + std::string(RequestTypeName(object)));
}

const Json* RequestFields::Get(const char* key) {
  known_.insert(key);
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool RequestFields::Bool(const char* key, bool fallback) {
  const Json* value = Get(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) Refuse(key, Expected("true or false", *value));
  return value->is_boolean() ? value->get<bool>() : fallback;
}

std::optional<int64_t> RequestFields::Int(const char* key, int64_t low, int64_t high) {
  const Json* value = Get(key);
  if (value == nullptr) return std::nullopt;
  const std::string range = fmt::format("an integer in {}..{}", low, high);
  const std::optional<int64_t> number = WholeNumber(*value);
  if (!number) {
    Refuse(key, Expected(range, *value));
    return std::nullopt;
  }
  if (*number < low || *number > high) {
    Refuse(key, value->dump() + " is not " + range);
    return std::nullopt;
  }
  return number;
}

std::optional<double> RequestFields::Real(const char* key, double low, double high) {
  const Json* value = Get(key);
  if (value == nullptr) return std::nullopt;
  const auto text = [](double x) { return Json(x).dump(); };
  const std::string range = "a number in " + text(low) + ".." + text(high);
  if (!value->is_number()) {
    Refuse(key, Expected(range, *value));
    return std::nullopt;
  }
  const auto number = value->get<double>();
  if (!(number >= low && number <= high)) {
    Refuse(key, value->dump() + " is not " + range);
    return std::nullopt;
  }
  return number;
}

std::optional<std::string> RequestFields::Text(const char* key) {
  const Json* value = Get(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    Refuse(key, Expected("a string", *value));
    return std::nullopt;
  }
  return value->get<std::string>();
}

void RequestFields::Only(const char* key, const Json& neutral, const char* why) {
  const Json* value = Get(key);
  if (value != nullptr && *value != neutral) Refuse(key, why);
}

void RequestFields::Refuse(const std::string& key, const std::string& what) {
  if (!status_.ok()) return;
  std::string param = prefix_;
  if (!prefix_.empty() && !key.empty()) param += ".";
  param += key;
  status_ = BadField(param.empty() ? "body" : param, what);
}

void RequestFields::Pass(ApiStatus nested) {
  if (status_.ok()) status_ = std::move(nested);
}

std::string RequestFields::Expected(const std::string& what, const Json& found) {
  return "expected " + what + ", found " + RequestTypeName(found);
}

ApiStatus RequestFields::Finish() {
  if (!status_.ok() || !object_.is_object()) return status_;
  for (const auto& item : object_.items()) {
    if (known_.count(item.key()) == 0) Refuse(item.key(), "this server has no such field");
  }
  return status_;
}

}  // namespace duo
