#include "text/json_part.h"

#include "text/limits.h"

namespace duo {
namespace {

Result<const Json*> Member(const Json& object, const char* key, Json::value_t type, const char* expected,
                           const std::string& where) {
  const Json* value = JsonOptional(object, key);
  if (value != nullptr && value->type() == type) return value;
  return Status(StatusCode::kCorrupt, where + ": " + key + ": expected " + expected + ", found " +
                                          (value == nullptr ? "nothing" : JsonTypeName(*value)));
}

Status Collect(const Json& part, const char* members_key, const std::string& where, std::vector<const Json*>* leaves) {
  DUO_ASSIGN_OR_RETURN(const std::string type, JsonString(part, "type", where));
  if (type != "Sequence") {
    leaves->push_back(&part);
    if (leaves->size() <= text_limits::kMaxSteps) return OkStatus();
    return Status(StatusCode::kUnsupported, where + ": " + members_key + ": more than " +
                                                std::to_string(text_limits::kMaxSteps) + " steps in a sequence");
  }
  DUO_ASSIGN_OR_RETURN(const Json* members, JsonArray(part, members_key, where));
  for (const Json& member : *members) DUO_RETURN_IF_ERROR(Collect(member, members_key, where, leaves));
  return OkStatus();
}

}  // namespace

Result<const Json*> JsonArray(const Json& object, const char* key, const std::string& where) {
  return Member(object, key, Json::value_t::array, "an array", where);
}

Result<const Json*> JsonObject(const Json& object, const char* key, const std::string& where) {
  return Member(object, key, Json::value_t::object, "an object", where);
}

const Json* JsonOptional(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

Result<std::vector<const Json*>> FlattenSequence(const Json& part, const char* members_key, const std::string& where) {
  std::vector<const Json*> leaves;
  DUO_RETURN_IF_ERROR(Collect(part, members_key, where, &leaves));
  return leaves;
}

Status UnsupportedPart(const std::string& where, const char* what, const std::string& name, const char* known) {
  return Status(StatusCode::kUnsupported,
                where + ": " + what + " \"" + name.substr(0, 60) + "\" is not supported; duo knows " + known);
}

}  // namespace duo
