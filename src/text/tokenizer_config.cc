#include "text/tokenizer_config.h"

#include <charconv>

#include "base/error.h"
#include "base/file.h"
#include "text/json_part.h"
#include "text/limits.h"

namespace duo {
namespace {

// A token is spelled "..." or {"content": "..."}.
Result<std::string> TokenText(const Json& config, const char* key, const std::string& path) {
  const Json* value = JsonOptional(config, key);
  if (value == nullptr) return std::string();
  if (value->is_object()) return JsonString(*value, "content", path + ": " + key);
  return JsonString(config, key, path);
}

Result<std::optional<bool>> OptionalBool(const Json& config, const char* key, const std::string& path) {
  if (JsonOptional(config, key) == nullptr) return std::optional<bool>();
  DUO_ASSIGN_OR_RETURN(const bool value, JsonBoolOr(config, key, false, path));
  return std::optional<bool>(value);
}

// The template is one text, or [{"name": "default", "template": "..."}, ...].
Result<std::string> TemplateText(const Json& config, const std::string& path) {
  const Json* value = JsonOptional(config, "chat_template");
  if (value == nullptr) return std::string();
  if (!value->is_array()) return JsonString(config, "chat_template", path);
  const std::string where = path + ": chat_template";
  std::string first;
  for (const Json& entry : *value) {
    DUO_ASSIGN_OR_RETURN(const std::string name, JsonString(entry, "name", where));
    DUO_ASSIGN_OR_RETURN(std::string text, JsonString(entry, "template", where));
    if (name == "default") return text;
    if (first.empty()) first = std::move(text);
  }
  return first;
}

Status ReadAddedTokens(const Json& config, const std::string& path, std::vector<AddedToken>* tokens) {
  const Json* table = JsonOptional(config, "added_tokens_decoder");
  if (table == nullptr) return OkStatus();
  DUO_ASSIGN_OR_RETURN(table, JsonObject(config, "added_tokens_decoder", path));
  if (table->size() > text_limits::kMaxAddedTokens) {
    return Unsupported("{}: added_tokens_decoder: {} tokens, expected at most {}", path, table->size(),
                       text_limits::kMaxAddedTokens);
  }
  for (auto it = table->begin(); it != table->end(); ++it) {
    const std::string& key = it.key();
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    const std::string where = path + ": added_tokens_decoder: \"" + key.substr(0, 40) + "\"";
    if (error != std::errc() || end != key.data() + key.size()) {
      return Corrupt("{}: expected a token id", where);
    }
    DUO_ASSIGN_OR_RETURN(AddedToken token, AddedToken::Parse(*it, id, where));
    tokens->push_back(std::move(token));
  }
  return OkStatus();
}

// Reads a list of texts or objects, or an object whose values are texts or objects ({"image_token": "<image>"}).
Status ReadSpecialTokens(const Json& config, const char* key, const std::string& path,
                         std::vector<AddedToken>* tokens) {
  const Json* list = JsonOptional(config, key);
  if (list == nullptr) return OkStatus();
  const std::string where = path + ": " + key;
  if (!list->is_array() && !list->is_object()) {
    return Corrupt("{}: expected an array, found {}", where, JsonTypeName(*list));
  }
  if (list->size() > text_limits::kMaxAddedTokens) {
    return Unsupported("{}: {} tokens, expected at most {}", where, list->size(), text_limits::kMaxAddedTokens);
  }
  for (const Json& entry : *list) {
    const Json object = entry.is_object() ? entry : Json{{"content", entry}};
    DUO_ASSIGN_OR_RETURN(AddedToken token, AddedToken::Parse(object, 0, where));
    if (!entry.is_object()) token.normalized = false;
    token.special = true;
    tokens->push_back(std::move(token));
  }
  return OkStatus();
}

}  // namespace

Result<TokenizerConfig> TokenizerConfig::Parse(const std::string& text, const std::string& path) {
  TokenizerConfig config;
  config.path = path;
  DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  if (!json.is_object()) {
    return Corrupt("{}: expected an object, found {}", path, JsonTypeName(json));
  }
  DUO_ASSIGN_OR_RETURN(config.bos_token, TokenText(json, "bos_token", path));
  DUO_ASSIGN_OR_RETURN(config.eos_token, TokenText(json, "eos_token", path));
  DUO_ASSIGN_OR_RETURN(config.add_bos_token, OptionalBool(json, "add_bos_token", path));
  DUO_ASSIGN_OR_RETURN(config.add_eos_token, OptionalBool(json, "add_eos_token", path));
  DUO_RETURN_IF_ERROR(ReadAddedTokens(json, path, &config.added_tokens));
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    DUO_RETURN_IF_ERROR(ReadSpecialTokens(json, key, path, &config.additional_special_tokens));
  }
  DUO_ASSIGN_OR_RETURN(config.chat_template, TemplateText(json, path));
  if (config.chat_template.size() > text_limits::kMaxChatTemplateBytes) {
    return Unsupported("{}: chat_template: {} bytes, expected at most {}", path, config.chat_template.size(),
                       text_limits::kMaxChatTemplateBytes);
  }
  return config;
}

Result<TokenizerConfig> TokenizerConfig::Read(const std::string& dir) {
  TokenizerConfig config;
  const std::string path = dir + "/tokenizer_config.json";
  if (FileExists(path)) {
    DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, text_limits::kMaxTokenizerConfigBytes));
    DUO_ASSIGN_OR_RETURN(config, Parse(text, path));
  }
  config.path = path;
  // Newer checkpoints keep the template in its own file, which wins.
  const std::string jinja = dir + "/chat_template.jinja";
  if (FileExists(jinja)) {
    DUO_ASSIGN_OR_RETURN(config.chat_template, ReadFile(jinja, text_limits::kMaxChatTemplateBytes));
  }
  return config;
}

}  // namespace duo
