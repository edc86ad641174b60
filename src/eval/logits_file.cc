#include "eval/logits_file.h"

#include "base/check.h"
#include "checkpoint/safetensors.h"

namespace duo {

Status WriteLogits(const std::string& path, std::span<const float> logits, int64_t vocab,
                   std::span<const int64_t> positions) {
  const int64_t n = std::ssize(positions);
  DUO_CHECK(std::ssize(logits) == n * vocab, "one row of logits for each position");
  return safetensors::WriteSafetensors(path, {{"logits", safetensors::Type::kF32, {n, vocab}, logits.data()},
                                              safetensors::Tensor::I64("positions", {n}, positions.data())});
}

}  // namespace duo
