// Writes logits for other programs.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "duo/result.h"

namespace duo {

/// Writes a safetensors file with `logits` [n, vocab] f32 and their `positions` [n] i64. After an error `path` is as it
/// was. kIo with path and reason.
Status WriteLogits(const std::string& path, std::span<const float> logits, int64_t vocab,
                   std::span<const int64_t> positions);

}  // namespace duo
