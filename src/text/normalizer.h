// tokenizer.json's "normalizer": changes a text before it is cut into pieces.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "duo/result.h"

namespace duo {

/// Immutable: may be used from several threads at once. Linear in the text's length.
class Normalizer {
 public:
  class Step;

  /// A null `spec` means no normalizer. Supports NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, and a
  /// Sequence of these.
  static Result<Normalizer> Parse(const Json* spec, const std::string& where);

  Normalizer();
  Normalizer(Normalizer&&) noexcept;
  Normalizer& operator=(Normalizer&&) noexcept;
  ~Normalizer();

  /// `text` is valid UTF-8 before and after.
  void Apply(std::string* text) const;
  bool IsIdentity() const { return steps_.empty(); }

 private:
  std::vector<std::unique_ptr<Step>> steps_;
};

/// Lower-cases every character, like the step Lowercase. Bytes that are not UTF-8 become U+FFFD.
std::string LowercaseText(std::string_view text);

}  // namespace duo
