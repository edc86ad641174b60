#include "text/post_processor.h"

#include "base/error.h"
#include "text/json_part.h"
#include "text/limits.h"

namespace duo {
namespace {

// Appends the ids of the special token `name`, as the template's own table lists them.
Status AppendSpecial(const Json& table, const std::string& name, const std::string& where, std::vector<int32_t>* ids) {
  const Json* entry = JsonOptional(table, name.c_str());
  if (entry == nullptr) {
    return Corrupt("{}: special_tokens: expected \"{}\", which single uses, found nothing", where, name.substr(0, 60));
  }
  DUO_ASSIGN_OR_RETURN(const Json* list, JsonArray(*entry, "ids", where + ": special_tokens"));
  for (const Json& id : *list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > text_limits::kMaxTokenId) {
      return Corrupt("{}: special_tokens: ids: expected token ids, found {}", where, id.dump());
    }
    ids->push_back(id.get<int32_t>());
  }
  return OkStatus();
}

Status ApplyTemplate(const Json& part, const std::string& where, PostProcessor* result) {
  DUO_ASSIGN_OR_RETURN(const Json* single, JsonArray(part, "single", where));
  DUO_ASSIGN_OR_RETURN(const Json* table, JsonObject(part, "special_tokens", where));
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  int n_sequences = 0;
  if (single->size() > text_limits::kMaxSteps) {
    return Unsupported("{}: single: {} parts, expected at most {}", where, single->size(), text_limits::kMaxSteps);
  }
  for (const Json& piece : *single) {
    if (JsonOptional(piece, "Sequence") != nullptr) {
      ++n_sequences;
      continue;
    }
    DUO_ASSIGN_OR_RETURN(const Json* special, JsonObject(piece, "SpecialToken", where + ": single"));
    DUO_ASSIGN_OR_RETURN(const std::string name, JsonString(*special, "id", where + ": single"));
    DUO_RETURN_IF_ERROR(AppendSpecial(*table, name, where, n_sequences == 0 ? &before : &after));
  }
  if (n_sequences != 1) {
    return Unsupported("{}: single: contains the text {} times, expected once", where, n_sequences);
  }
  result->prefix.insert(result->prefix.begin(), before.begin(), before.end());
  result->suffix.insert(result->suffix.end(), after.begin(), after.end());
  return OkStatus();
}

}  // namespace

Result<PostProcessor> PostProcessor::Parse(const Json* spec, const std::string& where) {
  PostProcessor result;
  if (spec == nullptr) return result;
  DUO_ASSIGN_OR_RETURN(const auto parts, FlattenSequence(*spec, "processors", where));
  for (const Json* part : parts) {
    DUO_ASSIGN_OR_RETURN(const std::string type, JsonString(*part, "type", where));
    if (type == "TemplateProcessing") {
      DUO_RETURN_IF_ERROR(ApplyTemplate(*part, where, &result));
    } else if (type != "ByteLevel") {
      return UnsupportedPart(where, "post-processor", type, "TemplateProcessing, ByteLevel, Sequence");
    }
  }
  return result;
}

}  // namespace duo
