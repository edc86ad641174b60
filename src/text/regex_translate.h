// Translates Oniguruma patterns to PCRE2 patterns. tokenizer.json holds regexes in Oniguruma's Ruby syntax, which the
// reference library runs. The dialects differ in a few escapes, and a silent difference would give wrong token ids.
#pragma once

#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

/// Returns a PCRE2 pattern (for PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE) that matches what `pattern` matches in
/// Oniguruma. kUnsupported, naming the construct, if the meaning differs and no translation is known.
Result<std::string> TranslateOniguruma(std::string_view pattern, const std::string& where);

}  // namespace duo
