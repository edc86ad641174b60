// Oniguruma pattern -> PCRE2 pattern. tokenizer.json holds regexes in Oniguruma's Ruby syntax (what the reference
// library runs); the two dialects differ in a few escapes, and a silent difference would be wrong token ids.
#pragma once

#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

/// A PCRE2 pattern (for PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE) that matches what `pattern` matches in Oniguruma.
/// kUnsupported, naming the construct, where the meaning differs and no translation is known.
Result<std::string> TranslateOniguruma(std::string_view pattern, const std::string& where);

}  // namespace duo
