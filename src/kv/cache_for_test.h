// Shared by the cache's tests: a small layout, and a cache that is filled as DuoAttention fills it, and checked.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/mask.h"
#include "kernels/reference/attention_reference.h"
#include "kv/split_kv_cache.h"

namespace duo {

inline BackendPtr TestBackend(int n_threads = 2) {
  auto backend = CreateBackend({.device = Device::kCpu, .n_threads = n_threads});
  EXPECT_TRUE(backend.ok());
  return std::move(*backend);
}

constexpr int kDim = 24;
constexpr KvType kTypes[] = {KvType::kF32, KvType::kBF16, KvType::kInt8, KvType::kInt4};

/// Two layers of three KV heads: retrieval, streaming, streaming / streaming, retrieval, retrieval.
inline KvLayout TestLayout(int64_t sink, int64_t recent, int64_t prefill_recent, int64_t snapshot_every,
                           KvType type = KvType::kF32) {
  KvLayout layout;
  layout.heads.n_layers = 2;
  layout.heads.n_kv_heads = 3;
  layout.heads.retrieval = {1, 0, 0, 0, 1, 1};
  layout.head_dim = kDim;
  layout.type = type;
  layout.sink = sink;
  layout.recent = recent;
  layout.prefill_recent = prefill_recent;
  layout.capacity = 500;
  layout.snapshot_every = snapshot_every;
  return layout;
}

/// Writes a value that encodes the position into every head, in the slots that DuoAttention uses. Checks that the cache
/// holds every position that a next token could see.
class CacheModel {
 public:
  CacheModel(Backend* backend, SplitKvCache cache) : backend_(backend), cache_(std::move(cache)) {}

  void Add(int64_t n) {
    while (n > 0) {
      const int64_t step = std::min(n, cache_.TokensToSnapshot());
      ASSERT_TRUE(cache_.Begin(step).ok());
      for (int64_t pos = cache_.len(); pos < cache_.len() + step; ++pos) Write(pos);
      cache_.Advance(step);
      n -= step;
    }
  }

  void Check() {
    const KvLayout& layout = cache_.layout();
    const int64_t next = cache_.len();
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < 3; ++head) {
        const KvHead kv_head = cache_.head(layer, head);
        for (int64_t j = 0; j < next; ++j) {
          if (!kv_head.retrieval() && !Sees({.sink = layout.sink, .window = layout.ring()}, next, j)) continue;
          for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
            ASSERT_EQ(Read(kv_head, j, part), Value(layer, head, j, part))
                << (part == KvPart::kKeys ? "K" : "V") << " of position " << j << " of " << next;
          }
        }
      }
    }
  }

  SplitKvCache& cache() { return cache_; }

 private:
  /// A row of zeros and ones, which are the bits of a number. Every KV type can store these values.
  static std::vector<float> Value(int layer, int head, int64_t pos, KvPart part) {
    const int64_t number = layer * 1000000 + head * 100000 + pos;
    std::vector<float> row;
    for (int d = 0; d < kDim; ++d)
      row.push_back(static_cast<float>((number >> d & 1) ^ (part == KvPart::kKeys ? 0 : 1)));
    return row;
  }
  void Write(int64_t pos) {
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < 3; ++head) {
        const KvHead kv_head = cache_.head(layer, head);
        for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
          const std::vector<float> row = Value(layer, head, pos, part);
          const StoreTask task{row.data(), kDim, kv_head.rows(part), kv_head.Slot(pos), 1, part};
          backend_->StoreRows({&task, 1}, kDim, cache_.layout().type);
        }
      }
    }
  }
  std::vector<float> Read(const KvHead& head, int64_t pos, KvPart part) const {
    std::vector<float> row;
    for (int d = 0; d < kDim; ++d) {
      const double x = KvElement(head.rows(part), part, cache_.layout().type, head.Slot(pos), kDim, d);
      row.push_back(x > 0.5 ? 1.0f : 0.0f);
    }
    return row;
  }

  Backend* backend_;
  SplitKvCache cache_;
};

}  // namespace duo
