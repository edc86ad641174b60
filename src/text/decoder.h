// tokenizer.json's "decoder": turns tokens into text, incrementally. Every step takes tokens one by one and passes on
// the text that later tokens cannot change. Whole and incremental decoding are therefore the same code.
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

/// One decoding in progress. Borrows the Decoder that made it.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;
  /// Takes the next token. After a step that fuses tokens, takes the next part of the single fused token. `text` has
  /// whole characters only.
  virtual void Take(std::string_view text) = 0;
  /// Marks the end of the tokens and passes on the text that was held back.
  virtual void Finish() {}
};

/// Immutable: may be used from several threads at once.
class Decoder {
 public:
  class Spec;

  /// A null `spec` joins tokens with a space, as in the reference. Supports ByteLevel, Metaspace, Replace,
  /// ByteFallback, Fuse, Strip, and a Sequence of these.
  static Result<Decoder> Parse(const Json* spec, const std::string& where);
  /// Decodes as a SentencePiece model does: U+2581 becomes a space, and byte tokens become text (U+FFFD for each
  /// undecodable byte). `strip_first_space` removes the space that the encoder put in front.
  static Decoder ForSentencePiece(bool strip_first_space);

  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;
  ~Decoder();

  /// A decoding that appends to `out`. Both `decoder` and `out` must outlive it.
  class Run {
   public:
    Run(const Decoder& decoder, std::string* out);
    void Take(std::string_view token) { steps_.back()->Take(token); }
    void Finish() { steps_.back()->Finish(); }

   private:
    std::vector<std::unique_ptr<DecodeStep>> steps_;  // in reverse order: each step borrows the one before it here
  };

 private:
  Decoder();
  std::vector<std::unique_ptr<Spec>> specs_;
};

}  // namespace duo
