// How far single channels of keys stand out: biases of several hundred (Qwen2 and 2.5), large weights of k_norm
// (Qwen3).
#pragma once

#include "duo/dtype.h"
#include "duo/model.h"
#include "duo/result.h"

namespace duo {

/// The largest channel of a KV head's keys, measured by the head's other channels. Sizes are root mean squares of keys
/// before RoPE: it turns pairs of channels, so a cached key has as much in the channel or in its partner.
struct KeyOutlier {
  int layer = 0;
  int kv_head = 0;
  double largest = 0;
  double others = 0;  // median over the channels

  double ratio() const { return others > 0 ? largest / others : 0; }
};

/// The KV head with the largest ratio; heads whose keys are not finite are left out, so a ratio of 0 says nothing. The
/// sizes of keys come from a few inputs that are as a norm leaves them, in all
/// layers: time and memory of a prompt of 16 tokens without its attention. Must not run beside sessions of the model's
/// backend. kResourceExhausted, kInternal.
Result<KeyOutlier> LargestKeyOutlier(const Model& model);

/// From this ratio on, keys as `type` lose too much: where it was measured (docs/quality.md), 5 of 100 choices of the
/// most likely token and more. 0 for types that have no such limit.
double KeyOutlierLimit(KvType type);

}  // namespace duo
