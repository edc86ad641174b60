// The "model" of a BPE tokenizer.json: turns a piece of text into ids.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "duo/result.h"
#include "text/bpe_merge.h"
#include "text/merge_table.h"
#include "text/vocabulary.h"

namespace duo {

/// How pieces become initial symbols.
enum class BpeAlphabet : uint8_t {
  kCharacters,  // one symbol per code point (SentencePiece's dialect)
  kBytes,       // one symbol per byte, spelled by byte_alphabet.h (GPT-2's dialect)
};

/// Remembers the results of short runs during one Encode call, because words repeat. Direct-mapped, fixed size.
class BpeCache {
 public:
  static constexpr size_t kMaxSymbols = 16;
  explicit BpeCache(size_t text_bytes);

  /// Appends the remembered result for `symbols` (at most kMaxSymbols). Returns false if none is remembered.
  bool Lookup(const int32_t* symbols, size_t n, std::vector<int32_t>* out) const;
  void Store(const int32_t* symbols, size_t n, const int32_t* ids, size_t n_ids);

 private:
  struct Slot {
    uint8_t n_symbols = 0;
    uint8_t n_ids = 0;
    std::array<int32_t, kMaxSymbols> symbols;
    std::array<int32_t, kMaxSymbols> ids;
  };
  size_t SlotOf(const int32_t* symbols, size_t n) const;
  size_t mask_;
  std::vector<Slot> slots_;
};

/// Working memory of one Encode call. Each call makes its own, so that the model itself stays immutable.
struct BpeScratch {
  explicit BpeScratch(size_t text_bytes) : cache(text_bytes) {}
  std::vector<int32_t> symbols;
  BpeMerger merger;
  BpeCache cache;
};

/// Immutable: may be used from several threads at once.
class BpeModel {
 public:
  /// kCorrupt names the key. kUnsupported names the option (dropout, subword prefixes, a model that is not BPE).
  static Result<BpeModel> Parse(const Json& model, BpeAlphabet alphabet, const std::string& where);

  /// Appends the ids of `piece` (valid UTF-8). O(n log n); linear if the words of the text have bounded length.
  void Encode(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  static constexpr uint32_t kDenseUnits = 0x10000;

  BpeModel() = default;
  Status ParseOptions(const Json& model, const std::string& where);
  Status ParseMerges(const Json& merges, const std::string& where);
  Status AddMerge(std::string_view left, std::string_view right, uint32_t rank, const std::string& where);
  void FindUnits();
  void FindWholePieces();
  int32_t UnitId(std::string_view character, uint32_t code_point) const;
  void Symbols(std::string_view piece, std::vector<int32_t>* symbols) const;
  bool AppendByteFallback(std::string_view character, std::vector<int32_t>* symbols) const;
  void EncodeRun(const int32_t* symbols, size_t n, BpeScratch* scratch, std::vector<int32_t>* ids) const;

  BpeAlphabet alphabet_ = BpeAlphabet::kCharacters;
  Vocabulary vocabulary_;
  MergeTable merges_;
  bool byte_fallback_ = false;
  bool fuse_unk_ = false;
  bool ignore_merges_ = false;
  int32_t unk_id_ = -1;
  IdByText whole_pieces_;              // for ignore_merges: pieces that are tokens, spelled as in the text
  std::array<int32_t, 256> byte_ids_;  // ids of "<0xNN>"; -1 where the vocabulary lacks it
  std::vector<int32_t> unit_ids_;      // by byte, or by code point below kDenseUnits; -1: not in the vocabulary
  // Pairs of initial symbols that are adjacent inside some merged token. No merge ever crosses any other pair, so a run
  // can be cut there. This cuts SentencePiece's dialect, whose piece is the whole text, into words.
  MergeTable joints_;
  bool cut_at_joints_ = true;
};

}  // namespace duo
