// What tokenizer.json's "decoder" does: tokens -> text, incrementally. Every step takes tokens one by one and passes on
// what later tokens cannot change, so that whole and incremental decoding are the same code.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "duo/result.h"
#include "text/pattern.h"

namespace duo {

/// One running decoding. Borrows the Decoder that made it.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;
  /// The next token, or, behind a step that fuses tokens, the next part of the only one. Whole characters only.
  virtual void Take(std::string_view text) = 0;
  /// No more tokens: passes on what was held back.
  virtual void Finish() {}
};

/// Immutable: may be used from several threads at once.
class Decoder {
 public:
  class Spec;

  /// `spec` null: tokens joined by a space, as in the reference. Knows ByteLevel, Metaspace, Replace, ByteFallback,
  /// Fuse, Strip and Sequence of these.
  static Result<Decoder> Parse(const Json* spec, const std::string& where);
  /// What a SentencePiece model does: U+2581 to space, byte tokens to text (each undecodable byte to U+FFFD), and, with
  /// `strip_first_space`, without the space the encoder put in front.
  static Decoder ForSentencePiece(bool strip_first_space);

  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;
  ~Decoder();

  /// A decoding that appends to `out`, which must outlive it.
  class Run {
   public:
    Run(const Decoder& decoder, std::string* out);
    void Take(std::string_view token) { steps_.back()->Take(token); }
    void Finish() { steps_.back()->Finish(); }

   private:
    std::vector<std::unique_ptr<DecodeStep>> steps_;  // last one first: each borrows the one before it
  };

 private:
  Decoder();
  std::vector<std::unique_ptr<Spec>> specs_;
};

}  // namespace duo
