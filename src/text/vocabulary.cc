#include "text/vocabulary.h"

#include <fmt/format.h>

#include "base/error.h"
#include "text/limits.h"

namespace duo {

Result<Vocabulary> Vocabulary::Parse(const Json& vocab, const std::string& where) {
  Vocabulary vocabulary;
  vocabulary.ids_.reserve(vocab.size());
  for (auto it = vocab.begin(); it != vocab.end(); ++it) {
    if (!it->is_number_integer()) {
      return Corrupt("{}: \"{}\": expected an id, found {}", where, it.key().substr(0, 60), JsonTypeName(*it));
    }
    const bool huge = it->is_number_unsigned() && it->get<uint64_t>() > INT64_MAX;
    DUO_RETURN_IF_ERROR(vocabulary.Add(it.key(), huge ? INT64_MAX : it->get<int64_t>(), where));
  }
  return vocabulary;
}

Status Vocabulary::Add(std::string_view text, int64_t id, const std::string& where) {
  const std::string name = fmt::format("\"{}\"", text.substr(0, 60));
  if (id < 0 || id > text_limits::kMaxTokenId) {
    return Corrupt("{}: {}: id {}, expected 0..{}", where, name, id, text_limits::kMaxTokenId);
  }
  const size_t slot = id;
  if (slot >= texts_.size()) texts_.resize(slot + 1, nullptr);
  if (texts_[slot] != nullptr) {
    return Corrupt("{}: {}: id {} already belongs to \"{}\"", where, name, id, texts_[slot]->substr(0, 60));
  }
  const auto [it, inserted] = ids_.emplace(text, id);
  if (!inserted) return Corrupt("{}: {} appears twice", where, name);
  texts_[slot] = &it->first;
  return OkStatus();
}

}  // namespace duo
