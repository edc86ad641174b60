#include "text/json_part.h"

#include "base/error.h"
#include "text/limits.h"

namespace duo {
namespace {

Result<const Json*> Member(const Json& object, const char* key, Json::value_t type, const char* expected,
                           const std::string& where) {
  const Json* value = JsonOptional(object, key);
  if (value != nullptr && value->type() == type) return value;
  return Corrupt("{}: {}: expected {}, found {}", where, key, expected,
                 value == nullptr ? "nothing" : JsonTypeName(*value));
}

Status Collect(const Json& part, const char* members_key, const std::string& where, std::vector<const Json*>* leaves) {
  DUO_ASSIGN_OR_RETURN(const std::string type, JsonString(part, "type", where));
  if (type != "Sequence") {
    leaves->push_back(&part);
    if (leaves->size() <= text_limits::kMaxSteps) return OkStatus();
    return Unsupported("{}: {}: more than {} steps in a sequence", where, members_key, text_limits::kMaxSteps);
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

Result<std::vector<const Json*>> FlattenSequence(const Json& part, const char* members_key, const std::string& where) {
  std::vector<const Json*> leaves;
  DUO_RETURN_IF_ERROR(Collect(part, members_key, where, &leaves));
  return leaves;
}

Status UnsupportedPart(const std::string& where, const char* what, const std::string& name, const char* known) {
  return Unsupported("{}: {} \"{}\" is not supported; duo knows {}", where, what, name.substr(0, 60), known);
}

}  // namespace duo
