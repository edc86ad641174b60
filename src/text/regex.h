// Regexes of tokenizer.json, run by PCRE2 (with its JIT where the CPU supports it).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "duo/result.h"

namespace duo {

/// Half-open range of bytes.
struct ByteRange {
  size_t begin;
  size_t end;
};

/// A compiled pattern. Immutable: may be used from several threads at once.
class Regex {
 public:
  /// `pattern` in Oniguruma's syntax. kUnsupported names the pattern and what is wrong with it.
  static Result<Regex> Compile(std::string_view pattern, const std::string& where);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  /// Appends the successive matches in `text` (valid UTF-8) to `matches`, in order and without overlap. Empty matches
  /// are reported as in the reference: one per position, never at the end of the previous match. A pattern that exceeds
  /// the step limit stops matching there. The limit grows with the length of the text.
  void FindAll(std::string_view text, std::vector<ByteRange>* matches) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace duo
