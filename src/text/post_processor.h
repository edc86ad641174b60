// tokenizer.json's "post_processor": the ids that go before and after the ids of one text.
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

  /// A null `spec` adds nothing. Supports TemplateProcessing (its "single" form), ByteLevel (which changes only
  /// offsets), and a Sequence of these.
  static Result<PostProcessor> Parse(const Json* spec, const std::string& where);
};

}  // namespace duo
