// Reads the tagged objects of tokenizer.json ({"type": "Sequence", ...}) with errors that name file and key.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "duo/result.h"

namespace duo {

/// The member `key` of `object`, which must be an array ("<where>: <key>: expected an array, found ...").
Result<const Json*> JsonArray(const Json& object, const char* key, const std::string& where);
/// The member `key`, which must be an object.
Result<const Json*> JsonObject(const Json& object, const char* key, const std::string& where);
/// The leaves of `part` in order, at most text_limits::kMaxSteps. The members of a {"type":"Sequence"} replace it.
Result<std::vector<const Json*>> FlattenSequence(const Json& part, const char* members_key, const std::string& where);

/// kUnsupported: "<where>: <what> "<name>" is not supported; duo knows <known>".
Status UnsupportedPart(const std::string& where, const char* what, const std::string& name, const char* known);

}  // namespace duo
