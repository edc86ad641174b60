#include "server/api_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "server/api_request.h"

namespace duo {
namespace {

constexpr std::string_view kBlanks = " \t\r";

/// The first words of a line, at most three: a third word is an error already.
std::vector<std::string_view> WordsOf(std::string_view line) {
  std::vector<std::string_view> words;
  while (words.size() < 3) {
    const size_t begin = line.find_first_not_of(kBlanks);
    if (begin == std::string_view::npos) break;
    line.remove_prefix(begin);
    const size_t end = std::min(line.find_first_of(kBlanks), line.size());
    words.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
  return words;
}

/// Returns why a key is not valid; empty when it fits in a header and is not too long.
std::string WrongWith(std::string_view key) {
  if (key.size() > kMaxApiKeyBytes) return fmt::format("the key is longer than {} bytes", kMaxApiKeyBytes);
  const auto visible = [](char c) { return c > 0x20 && c < 0x7f; };
  return std::all_of(key.begin(), key.end(), visible) ? "" : "the key has a character that is not visible ASCII";
}

/// Returns why a line's key cannot follow those before it; empty when it can.
std::string WrongWith(const ApiKey& key, const std::vector<ApiKey>& before, bool is_bare) {
  // The message does not quote the name: it may be a key in the wrong place.
  if (!is_bare && !IsSessionName(key.name)) {
    return "the name must be 1..64 letters, digits, '.', '_' or '-', not beginning with a dot";
  }
  for (const ApiKey& other : before) {
    if (is_bare || other.name.empty()) return "a key without a name must be the file's only one; expected NAME KEY";
    if (other.name == key.name) return fmt::format("the name \"{}\" occurs twice", key.name);
    if (other.key == key.key) return fmt::format("\"{}\" and \"{}\" have the same key", other.name, key.name);
  }
  if (before.size() == kMaxApiKeys) return fmt::format("more than {} keys", kMaxApiKeys);
  return WrongWith(key.key);
}

}  // namespace

Result<std::vector<ApiKey>> ParseApiKeys(std::string_view text, const std::string& path) {
  std::vector<ApiKey> keys;
  for (int n_line = 1; !text.empty(); ++n_line) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::vector<std::string_view> words = WordsOf(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (words.empty() || words[0].starts_with('#')) continue;
    const bool is_bare = words.size() == 1;
    ApiKey key{.name = is_bare ? "" : std::string(words[0]), .key = std::string(words[is_bare ? 0 : 1])};
    const std::string wrong =
        words.size() > 2 ? "expected NAME KEY, without blanks in either" : WrongWith(key, keys, is_bare);
    if (!wrong.empty()) return InvalidArgument("{}: line {}: {}", path, n_line, wrong);
    keys.push_back(std::move(key));
  }
  if (keys.empty()) return InvalidArgument("{}: the file holds no key", path);
  return keys;
}

}  // namespace duo
