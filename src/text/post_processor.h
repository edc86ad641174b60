// What tokenizer.json's "post_processor" puts around the ids of one text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "duo/result.h"

namespace duo {

struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;

  /// `spec` null: nothing is added. Knows TemplateProcessing (its "single" form), ByteLevel (which changes offsets
  /// only) and Sequence of these.
  static Result<PostProcessor> Parse(const Json* spec, const std::string& where);
};

}  // namespace duo
