#include "text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/json_part.h"
#include "text/limits.h"
#include "text/utf8.h"

namespace duo {
namespace {

constexpr size_t kMinCacheSlots = 64;
constexpr size_t kMaxCacheSlots = 16384;  // 2 MB, which fits a core's second-level cache

std::string_view FirstCharacter(std::string_view text) { return text.substr(0, NextUtf8(text, 0).n_bytes); }

std::string_view LastCharacter(std::string_view text) { return text.substr(PreviousUtf8(text, text.size())); }

Status MergeError(const std::string& where, uint32_t rank, const std::string& what) {
  return Corrupt("{}: merges[{}]: {}", where, rank, what);
}

}  // namespace

BpeCache::BpeCache(size_t text_bytes)
    : mask_(std::bit_ceil(std::clamp(text_bytes / 16, kMinCacheSlots, kMaxCacheSlots)) - 1), slots_(mask_ + 1) {}

size_t BpeCache::SlotOf(const int32_t* symbols, size_t n) const {
  uint64_t hash = n;
  for (size_t i = 0; i < n; ++i) hash = (hash ^ static_cast<uint32_t>(symbols[i])) * 0x9E3779B97F4A7C15u;
  return hash >> 40 & mask_;
}

bool BpeCache::Lookup(const int32_t* symbols, size_t n, std::vector<int32_t>* out) const {
  const Slot& slot = slots_[SlotOf(symbols, n)];
  if (slot.n_symbols != n || std::memcmp(slot.symbols.data(), symbols, n * sizeof(int32_t)) != 0) return false;
  out->insert(out->end(), slot.ids.begin(), slot.ids.begin() + slot.n_ids);
  return true;
}

void BpeCache::Store(const int32_t* symbols, size_t n, const int32_t* ids, size_t n_ids) {
  Slot& slot = slots_[SlotOf(symbols, n)];
  slot.n_symbols = n;
  slot.n_ids = n_ids;
  std::copy_n(symbols, n, slot.symbols.begin());
  std::copy_n(ids, n_ids, slot.ids.begin());
}

Result<BpeModel> BpeModel::Parse(const Json& model, BpeAlphabet alphabet, const std::string& where) {
  // Files from old versions of the library omit the type.
  DUO_ASSIGN_OR_RETURN(const std::string type, JsonStringOr(model, "type", "BPE", where));
  if (type != "BPE") return UnsupportedPart(where, "model", type, "BPE");
  BpeModel bpe;
  bpe.alphabet_ = alphabet;
  DUO_ASSIGN_OR_RETURN(const Json* vocab, JsonObject(model, "vocab", where));
  DUO_ASSIGN_OR_RETURN(bpe.vocabulary_, Vocabulary::Parse(*vocab, where + ": vocab"));
  if (bpe.vocabulary_.size() == 0) return Corrupt("{}: vocab: expected tokens, found none", where);
  DUO_RETURN_IF_ERROR(bpe.ParseOptions(model, where));
  bpe.FindUnits();
  DUO_ASSIGN_OR_RETURN(const Json* merges, JsonArray(model, "merges", where));
  DUO_RETURN_IF_ERROR(bpe.ParseMerges(*merges, where));
  if (bpe.ignore_merges_) bpe.FindWholePieces();
  return bpe;
}

Status BpeModel::ParseOptions(const Json& model, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const double dropout, JsonNumberOr(model, "dropout", 0, where));
  if (dropout != 0) {
    return Unsupported("{}: dropout: {} is not supported, expected 0", where, dropout);
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    DUO_ASSIGN_OR_RETURN(const std::string affix, JsonStringOr(model, key, "", where));
    if (!affix.empty()) return UnsupportedPart(where, key, affix, "none");
  }
  DUO_ASSIGN_OR_RETURN(byte_fallback_, JsonBoolOr(model, "byte_fallback", false, where));
  DUO_ASSIGN_OR_RETURN(fuse_unk_, JsonBoolOr(model, "fuse_unk", false, where));
  DUO_ASSIGN_OR_RETURN(ignore_merges_, JsonBoolOr(model, "ignore_merges", false, where));
  if (JsonOptional(model, "unk_token") == nullptr) return OkStatus();
  DUO_ASSIGN_OR_RETURN(const std::string unk, JsonString(model, "unk_token", where));
  unk_id_ = vocabulary_.Find(unk);
  if (unk_id_ >= 0) return OkStatus();
  return Corrupt("{}: unk_token: \"{}\" is not in the vocabulary", where, unk.substr(0, 60));
}

void BpeModel::FindUnits() {
  if (alphabet_ == BpeAlphabet::kBytes) {
    for (int b = 0; b < 256; ++b) unit_ids_.push_back(vocabulary_.Find(ByteToAlphabet(b)));
  } else {
    std::string character;
    for (uint32_t c = 0; c < kDenseUnits; ++c) {
      character.clear();
      AppendUtf8(c, &character);
      unit_ids_.push_back(vocabulary_.Find(character));
    }
  }
  for (size_t b = 0; b < 256; ++b) byte_ids_[b] = vocabulary_.Find(fmt::format("<0x{:02X}>", b));
}

void BpeModel::FindWholePieces() {
  for (int32_t id = 0; id < vocabulary_.end_id(); ++id) {
    const std::string* text = vocabulary_.Text(id);
    if (text == nullptr) continue;
    if (alphabet_ == BpeAlphabet::kCharacters) {
      whole_pieces_.emplace(*text, id);
    } else if (const auto bytes = BytesFromAlphabet(*text)) {
      whole_pieces_.emplace(*bytes, id);
    }
  }
}

Status BpeModel::ParseMerges(const Json& merges, const std::string& where) {
  if (merges.size() > text_limits::kMaxMerges) {
    return Unsupported("{}: merges: {} rules, expected at most {}", where, merges.size(), text_limits::kMaxMerges);
  }
  merges_ = MergeTable(merges.size());
  joints_ = MergeTable(merges.size());
  uint32_t rank = 0;
  for (const Json& merge : merges) {
    if (merge.is_string()) {  // "left right"
      const auto& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (text.compare(0, 8, "#version") == 0) continue;
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        return MergeError(where, rank,
                          fmt::format("expected two tokens and one space, found \"{}\"", text.substr(0, 60)));
      }
      const std::string_view view = text;
      DUO_RETURN_IF_ERROR(AddMerge(view.substr(0, space), view.substr(space + 1), rank, where));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      DUO_RETURN_IF_ERROR(
          AddMerge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), rank, where));
    } else {
      return MergeError(where, rank, fmt::format("expected two tokens, found {}", JsonTypeName(merge)));
    }
    ++rank;
  }
  return OkStatus();
}

Status BpeModel::AddMerge(std::string_view left, std::string_view right, uint32_t rank, const std::string& where) {
  const int32_t left_id = vocabulary_.Find(left);
  const int32_t right_id = vocabulary_.Find(right);
  const std::string merged = std::string(left) + std::string(right);
  const int32_t merged_id = vocabulary_.Find(merged);
  if (left_id < 0 || right_id < 0 || merged_id < 0) {
    const std::string_view missing = left_id < 0 ? left : right_id < 0 ? right : std::string_view(merged);
    return MergeError(where, rank, fmt::format("token \"{}\" is not in the vocabulary", missing.substr(0, 60)));
  }
  if (left.empty() || right.empty()) return MergeError(where, rank, "expected two tokens, found an empty one");
  merges_.Set(left_id, right_id, {rank, merged_id});
  const int32_t last = vocabulary_.Find(LastCharacter(left));
  const int32_t first = vocabulary_.Find(FirstCharacter(right));
  if (last >= 0 && first >= 0) joints_.Set(last, first, {});
  // As an initial symbol, the id of a byte or of the unknown token is not spelled by its characters. A rule for such an
  // id would join symbols that joints_ does not show.
  for (const int32_t id : {left_id, right_id}) {
    const bool is_byte = byte_fallback_ && std::find(byte_ids_.begin(), byte_ids_.end(), id) != byte_ids_.end();
    if (id == unk_id_ || is_byte) cut_at_joints_ = false;
  }
  return OkStatus();
}

int32_t BpeModel::UnitId(std::string_view character, uint32_t code_point) const {
  return code_point < unit_ids_.size() ? unit_ids_[code_point] : vocabulary_.Find(character);
}

bool BpeModel::AppendByteFallback(std::string_view character, std::vector<int32_t>* symbols) const {
  const auto id_of = [this](char byte) { return byte_ids_[static_cast<uint8_t>(byte)]; };
  if (!std::all_of(character.begin(), character.end(), [&](char byte) { return id_of(byte) >= 0; })) return false;
  for (const char byte : character) symbols->push_back(id_of(byte));
  return true;
}

void BpeModel::Symbols(std::string_view piece, std::vector<int32_t>* symbols) const {
  bool unknown_pending = false;
  for (size_t pos = 0; pos < piece.size();) {
    std::string_view character;
    int32_t id;
    if (alphabet_ == BpeAlphabet::kBytes) {
      const uint8_t byte = piece[pos];
      id = unit_ids_[byte];
      character = ByteToAlphabet(byte);
      ++pos;
    } else {
      const Utf8Step step = NextUtf8(piece, pos);
      character = piece.substr(pos, step.n_bytes);
      id = UnitId(character, step.code_point);
      pos += step.n_bytes;
    }
    if (id >= 0) {
      if (unknown_pending) symbols->push_back(unk_id_);
      unknown_pending = false;
      symbols->push_back(id);
    } else if (!(byte_fallback_ && AppendByteFallback(character, symbols)) && unk_id_ >= 0) {
      // As in the reference, an unknown token waits for the next known character. Byte tokens in between come before
      // it.
      if (unknown_pending && !fuse_unk_) symbols->push_back(unk_id_);
      unknown_pending = true;
    }
  }
  if (unknown_pending) symbols->push_back(unk_id_);
}

void BpeModel::EncodeRun(const int32_t* symbols, size_t n, BpeScratch* scratch, std::vector<int32_t>* ids) const {
  if (n == 1) return ids->push_back(symbols[0]);
  const bool short_run = n <= BpeCache::kMaxSymbols;
  if (short_run && scratch->cache.Lookup(symbols, n, ids)) return;
  const size_t before = ids->size();
  scratch->merger.Merge(merges_, {symbols, n}, ids);
  if (short_run) scratch->cache.Store(symbols, n, ids->data() + before, ids->size() - before);
}

void BpeModel::Encode(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const auto it = whole_pieces_.find(piece); it != whole_pieces_.end()) return ids->push_back(it->second);
  }
  std::vector<int32_t>& symbols = scratch->symbols;
  symbols.clear();
  Symbols(piece, &symbols);
  const bool cut = cut_at_joints_ && symbols.size() > BpeCache::kMaxSymbols;
  for (size_t begin = 0; begin < symbols.size();) {
    size_t end = begin + 1;
    while (end < symbols.size() && !(cut && joints_.Find(symbols[end - 1], symbols[end]) == nullptr)) ++end;
    EncodeRun(symbols.data() + begin, end - begin, scratch, ids);
    begin = end;
  }
}

}  // namespace duo
