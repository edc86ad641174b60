#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/mask.h"
#include "kernels/reference/attention_reference.h"
#include "kv/cache_for_test.h"
#include "kv/split_kv_cache.h"

namespace duo {
namespace {

TEST(KvLayout, CountsBytes) {
  const KvLayout layout = TestLayout(4, 16, 20, 10);
  EXPECT_EQ(layout.BytesPerToken(), 3u * 2 * kDim * 4);
  EXPECT_EQ(layout.FixedBytes(), 3u * 2 * (4 + 20) * kDim * 4);
  EXPECT_EQ(layout.SnapshotBytes(35), 3u * (3 * 2 * 20 * kDim * 4));
  EXPECT_EQ(layout.TotalBytes(35), 35 * layout.BytesPerToken() + layout.FixedBytes() + layout.SnapshotBytes(35));
}

TEST(KvLayout, CountsBytesOfCodes) {
  const KvLayout int8 = TestLayout(4, 16, 20, 10, KvType::kInt8), int4 = TestLayout(40, 16, 20, 10, KvType::kInt4);
  EXPECT_EQ(int8.BytesPerToken(), 3u * 2 * (24 + 4));
  EXPECT_EQ(int4.BytesPerToken(), 3u * 2 * (12 + 4));
  EXPECT_EQ(int8.FixedBytes(), 3u * 2 * 32 * 28) << "24 rows, in whole blocks";
  EXPECT_EQ(int4.FixedBytes(), 3u * 2 * 64 * 16) << "60 rows";
  EXPECT_EQ(int4.SnapshotBytes(35), 3u * 3 * 2 * 32 * 16)
      << "rows 40 to 59, and rows 32 to 39 of the block where they begin";
}

TEST(KvLayout, RefusesContradictions) {
  auto option = [](KvLayout layout) { return CheckKvLayout(layout).subject(); };
  KvLayout layout = TestLayout(4, 16, 16, 0);
  EXPECT_TRUE(CheckKvLayout(layout).ok());
  layout.recent = 0;
  EXPECT_EQ(option(layout), "recent");
  layout = TestLayout(-1, 16, 16, 0);
  EXPECT_EQ(option(layout), "sink");
  layout = TestLayout(4, 16, 15, 0);
  EXPECT_EQ(option(layout), "prefill_recent");
  layout = TestLayout(4, 16, 16, 0);
  layout.capacity = 0;
  EXPECT_FALSE(CheckKvLayout(layout).ok());
}

TEST(StreamingCache, SlotRangesAreExactlyWhatTheMaskShows) {
  const BackendPtr backend = TestBackend();
  for (const int64_t sink : {0, 1, 4}) {
    for (const int64_t recent : {1, 3, 8}) {
      for (const int64_t prefill_recent : {recent, recent + 5}) {
        const KvLayout layout = TestLayout(sink, recent, prefill_recent, 0);
        auto cache = StreamingCache::Create(backend.get(), layout, 1);
        ASSERT_TRUE(cache.ok());
        for (const int64_t window : {recent, prefill_recent}) {
          for (int64_t pos = 0; pos < 40; ++pos) {
            std::set<int64_t> expected;
            for (int64_t j = 0; j <= pos; ++j) {
              if (Sees({.sink = sink, .window = window}, pos, j)) expected.insert(cache->Slot(j));
            }
            RowRange ranges[2];
            cache->SlotRanges(pos, window, ranges);
            std::vector<int64_t> got;
            for (const RowRange& range : ranges) {
              for (int64_t slot = range.begin; slot < range.end; ++slot) got.push_back(slot);
            }
            ASSERT_EQ(std::set<int64_t>(got.begin(), got.end()), expected) << "pos " << pos << " window " << window;
            ASSERT_EQ(got.size(), expected.size()) << "a slot is read twice";
          }
        }
      }
    }
  }
}

TEST(FullCache, GrowsWithoutMoving) {
  const BackendPtr backend = TestBackend();
  KvLayout layout = TestLayout(4, 16, 16, 0);
  layout.capacity = 1 << 20;
  auto cache = FullCache::Create(backend.get(), layout, 2);
  ASSERT_TRUE(cache.ok());
  uint8_t* v = cache->rows(KvPart::kValues, 1);
  int64_t rows = 0;
  for (int step = 0; step < 50; ++step) {
    ASSERT_TRUE(cache->EnsureRows(rows + 100).ok());
    ASSERT_GE(cache->committed_rows(), rows + 100);
    for (; rows < 100 * (step + 1); ++rows) std::memcpy(v + rows * layout.row_bytes(), &rows, 8);
  }
  EXPECT_EQ(cache->rows(KvPart::kValues, 1), v);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t value;
    std::memcpy(&value, v + row * layout.row_bytes(), 8);
    ASSERT_EQ(value, row);
  }
}

TEST(SplitKvCache, EveryNeededRowSurvivesRandomRewinds) {
  const BackendPtr backend = TestBackend();
  Rng rng(7);
  for (int round = 0; round < 60; ++round) {
    const auto sink = static_cast<int64_t>(rng.Below(rng.Below(2) == 0 ? 6 : 40));
    const auto recent = static_cast<int64_t>(1 + rng.Below(20));
    const auto every = static_cast<int64_t>(rng.Below(2) == 0 ? 0 : 5 + rng.Below(30));
    auto cache = SplitKvCache::Create(
        backend.get(), TestLayout(sink, recent, recent + static_cast<int64_t>(rng.Below(9)), every, kTypes[round % 4]));
    ASSERT_TRUE(cache.ok());
    CacheModel model(backend.get(), std::move(*cache));
    for (int step = 0; step < 30; ++step) {
      const int64_t len = model.cache().len();
      if (rng.Below(3) != 0 && len < 400) {
        model.Add(static_cast<int64_t>(1 + rng.Below(40)));
      } else {
        const auto pos = static_cast<int64_t>(rng.Below(static_cast<uint64_t>(len) + 1));
        const int64_t at = model.cache().Rewind(pos);
        ASSERT_LE(at, pos);
        ASSERT_EQ(at, model.cache().len());
        if (every != 0) {
          ASSERT_LT(pos - at, every) << "more than one snapshot interval would be prefilled again";
        }
        model.Check();
        if (at < pos) model.Add(pos - at);
      }
      model.Check();
      if (HasFatalFailure()) return;
    }
  }
}

TEST(SplitKvCache, RewindIsFreeWhileTheRingsHoldEverything) {
  const BackendPtr backend = TestBackend();
  auto cache = SplitKvCache::Create(backend.get(), TestLayout(4, 16, 16, 0));
  CacheModel model(backend.get(), std::move(*cache));
  model.Add(20);  // sink + ring: nothing was overwritten
  EXPECT_EQ(model.cache().Rewind(3), 3);
  model.Add(40);
  EXPECT_EQ(model.cache().Rewind(42), 42) << "one token back is always held";
  EXPECT_EQ(model.cache().Rewind(30), 0) << "without snapshots the sequence starts again";
}

TEST(SplitKvCache, ClonesAreIndependent) {
  const BackendPtr backend = TestBackend();
  for (const KvType type : kTypes) {
    auto cache = SplitKvCache::Create(backend.get(), TestLayout(2, 8, 8, 10, type));
    CacheModel model(backend.get(), std::move(*cache));
    model.Add(57);
    auto copy = model.cache().ClonePrefix(model.cache().len());
    ASSERT_TRUE(copy.ok());
    EXPECT_EQ(copy->bytes(), model.cache().bytes());
    CacheModel clone(backend.get(), std::move(*copy));
    EXPECT_EQ(model.cache().Rewind(12), 10);
    model.Add(80);
    clone.Check();
    EXPECT_EQ(clone.cache().Rewind(45), 40) << "snapshots are cloned too";
    clone.Check();
    model.Check();
  }
}

TEST(SplitKvCache, CountsItsBytesAsTheLayoutPlansThem) {
  const BackendPtr backend = TestBackend();
  auto cache = SplitKvCache::Create(backend.get(), TestLayout(4, 16, 16, 25));
  CacheModel model(backend.get(), std::move(*cache));
  for (int i = 0; i < 4; ++i) {
    model.Add(30);
    EXPECT_EQ(model.cache().bytes(), model.cache().layout().TotalBytes(model.cache().len()));
  }
  model.cache().Rewind(60);
  EXPECT_EQ(model.cache().bytes(), model.cache().layout().TotalBytes(model.cache().len()));
}

TEST(KvHead, IsItsRowsInTheCacheOfItsKind) {
  const BackendPtr backend = TestBackend();
  auto cache = SplitKvCache::Create(backend.get(), TestLayout(2, 5, 5, 0));
  ASSERT_TRUE(cache->Begin(10).ok());
  std::set<const uint8_t*> different;
  for (int layer = 0; layer < 2; ++layer) {
    int n_of_kind[2] = {0, 0};
    for (int h = 0; h < 3; ++h) {
      const KvHead head = cache->head(layer, h);
      ASSERT_EQ(head.retrieval(), cache->layout().heads.is_retrieval(layer, h));
      EXPECT_EQ(head.index(), n_of_kind[head.retrieval() ? 1 : 0]++);
      for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
        EXPECT_EQ(head.rows(part), head.retrieval() ? cache->full(layer).rows(part, head.index())
                                                    : cache->streaming(layer).rows(part, head.index()));
        different.insert(head.rows(part));
      }
      EXPECT_EQ(head.Slot(9), head.retrieval() ? 9 : 2 + 7 % 5);
      RowRange ranges[2], want[2] = {{0, 10}, {0, 0}};
      head.SlotRanges(9, 5, ranges);
      if (!head.retrieval()) cache->streaming(layer).SlotRanges(9, 5, want);
      for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(ranges[i].begin, want[i].begin);
        EXPECT_EQ(ranges[i].end, want[i].end);
      }
    }
  }
  EXPECT_EQ(different.size(), 2u * 2 * 3);
}

TEST(SplitKvCache, RefusesMoreThanItsCapacity) {
  const BackendPtr backend = TestBackend();
  auto cache = SplitKvCache::Create(backend.get(), TestLayout(4, 16, 16, 0));
  EXPECT_TRUE(cache->Begin(500).ok());
  const Status status = cache->Begin(501);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("500"), std::string::npos);
}

TEST(SplitKvCache, SyntheticFillIsFiniteAndCounts) {
  const BackendPtr backend = TestBackend();
  for (const KvType type : kTypes) {
    auto cache = SplitKvCache::Create(backend.get(), TestLayout(4, 16, 16, 0, type));
    ASSERT_TRUE(cache->FillSynthetic(7, 1).ok());
    ASSERT_TRUE(cache->FillSynthetic(293, 1).ok());
    EXPECT_EQ(cache->len(), 300);
    const auto filled = [](double x) { return x != 0 && std::abs(x) < 10; };
    for (const int64_t row : {6, 7, 299}) {
      EXPECT_TRUE(filled(KvElement(cache->full(1).rows(KvPart::kValues, 1), KvPart::kValues, type, row, kDim, 0)))
          << row;
    }
    EXPECT_TRUE(filled(KvElement(cache->streaming(0).rows(KvPart::kKeys, 1), KvPart::kKeys, type, 19, kDim, 7)));
  }
}

}  // namespace
}  // namespace duo
