// Measures how far single channels of keys stand out, which decides whether a model's keys may be stored as int8 or
// int4 (SessionOptions::kv_type). The causes are biases of several hundred (Qwen2 and 2.5) and large weights of k_norm
// (Qwen3).
#pragma once

#include "duo/dtype.h"
#include "duo/model.h"
#include "duo/result.h"

namespace duo {

/// The largest channel of a KV head's keys, compared with the head's other channels. The size of a channel is the root
/// mean square of keys before RoPE. RoPE rotates pairs of channels, so in a cached key the same size is in the channel
/// or in its partner.
struct KeyOutlier {
  int layer = 0;
  int kv_head = 0;
  double largest = 0;
  double others = 0;  // median over the channels

  double ratio() const { return others > 0 ? largest / others : 0; }
};

/// Finds the KV head with the largest ratio. Heads whose keys are not finite are left out, so a ratio of 0 says
/// nothing. Measures keys in all layers with 16 random inputs that have the size of normed inputs. Costs the time and
/// memory of a prompt of 16 tokens without its attention. Must not run at the same time as sessions of the model's
/// backend. kResourceExhausted, kInternal.
Result<KeyOutlier> LargestKeyOutlier(const Model& model);

/// At this ratio or more, keys stored as `type` lose too much: in the measurements (docs/quality.md), 5 of 100 choices
/// of the most likely token or more. 0 for types that have no such limit.
double KeyOutlierLimit(KvType type);

}  // namespace duo
