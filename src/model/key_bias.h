// Measures how far the biases of keys stand out (Qwen2 and 2.5 have channels of several hundred).
#pragma once

#include <optional>

#include "duo/dtype.h"
#include "duo/model.h"
#include "duo/result.h"

namespace duo {

/// The channel of a KV head's keys whose bias is largest, measured by the head's other channels.
struct KeyBias {
  int layer = 0;
  int kv_head = 0;
  double largest = 0;  // |bias|
  double others = 0;   // median over the channels of what a key has there, bias included (root mean square)

  double ratio() const { return others > 0 ? largest / others : 0; }
};

/// The KV head with the largest ratio; nothing for a model without key biases. The sizes of keys come from a few inputs
/// that are as a norm leaves them, in all layers: time and memory of a prompt of 16 tokens without its attention. Must
/// not run beside sessions of the model's backend. kResourceExhausted, kInternal.
Result<std::optional<KeyBias>> LargestKeyBias(const Model& model);

/// From this ratio on, keys as `type` lose too much: where it was measured (docs/quality.md), 5 of 100 choices of the
/// most likely token and more. 0 for types that have no such limit.
double KeyBiasLimit(KvType type);

}  // namespace duo
