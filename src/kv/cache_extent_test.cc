// The cache's edge cases: sizes that it accepts and refuses, growth, and saving and restoring.
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "kv/cache_for_test.h"
#include "kv/split_kv_cache.h"

namespace duo {
namespace {

/// The test layout with every head of one kind.
KvLayout OfOneKind(bool retrieval, int64_t snapshot_every) {
  KvLayout layout = TestLayout(4, 16, 16, snapshot_every);
  std::fill(layout.heads.retrieval.begin(), layout.heads.retrieval.end(), static_cast<uint8_t>(retrieval ? 1 : 0));
  return layout;
}

SplitKvCache Made(Backend* backend, const KvLayout& layout) {
  auto cache = SplitKvCache::Create(backend, layout);
  EXPECT_TRUE(cache.ok()) << cache.status().message();
  return std::move(*cache);
}

TEST(KvLayout, TakesEveryFieldUpToItsEnds) {
  const int64_t window = int64_t{1} << 32, capacity = int64_t{1} << 36;
  KvLayout widest = TestLayout(window, window, window, capacity);
  widest.capacity = capacity;
  EXPECT_TRUE(CheckKvLayout(widest).ok());
  EXPECT_TRUE(CheckKvLayout(TestLayout(0, 1, 1, 0)).ok());
  KvLayout shortest = TestLayout(0, 1, 1, 0);
  shortest.capacity = 1;
  EXPECT_TRUE(CheckKvLayout(shortest).ok());

  const auto refused = [&](int64_t KvLayout::*field, int64_t value, const std::string& name) {
    KvLayout layout = widest;
    layout.*field = value;
    const Status status = CheckKvLayout(layout);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(status.message().rfind(name + " is " + std::to_string(value) + "; ", 0), 0u) << status.message();
  };
  refused(&KvLayout::sink, -1, "sink");
  refused(&KvLayout::sink, window + 1, "sink");
  refused(&KvLayout::recent, 0, "recent");
  refused(&KvLayout::recent, window + 1, "recent");
  refused(&KvLayout::prefill_recent, window - 1, "prefill_recent");
  refused(&KvLayout::prefill_recent, window + 1, "prefill_recent");
  refused(&KvLayout::capacity, 0, "max_context");
  refused(&KvLayout::capacity, capacity + 1, "max_context");
  refused(&KvLayout::snapshot_every, -1, "snapshot_every");
  refused(&KvLayout::snapshot_every, capacity + 1, "snapshot_every");
  const BackendPtr backend = TestBackend();
  KvLayout bad = TestLayout(4, 16, 16, 0);
  bad.recent = 0;
  EXPECT_FALSE(SplitKvCache::Create(backend.get(), bad).ok()) << "Create must check the layout";
}

TEST(KvLayout, CountsNoSnapshotsWhereThereAreNone) {
  EXPECT_EQ(TestLayout(4, 16, 16, 0).SnapshotBytes(500), 0u);
  const KvLayout each = TestLayout(4, 16, 16, 1);
  EXPECT_EQ(each.SnapshotBytes(3), 3 * each.SnapshotBytes(1));
  EXPECT_GT(each.SnapshotBytes(1), 0u);
  EXPECT_EQ(TestLayout(4, 16, 16, 10).SnapshotBytes(9), 0u);
  EXPECT_EQ(OfOneKind(true, 10).SnapshotBytes(100), 0u);
}

TEST(FullCache, TakesWhatIsAskedForFirstAndThenGrowsInSteps) {
  const BackendPtr backend = TestBackend();
  KvLayout layout = TestLayout(4, 16, 16, 0);
  layout.capacity = 60000;
  auto cache = FullCache::Create(backend.get(), layout, 2);
  ASSERT_TRUE(cache.ok());
  ASSERT_TRUE(cache->EnsureRows(100).ok());
  EXPECT_EQ(cache->committed_rows(), 100) << "a prompt's rows, not more";
  ASSERT_TRUE(cache->EnsureRows(100).ok());
  EXPECT_EQ(cache->committed_rows(), 100) << "nothing new was asked for";
  int steps = 0;
  for (int64_t rows = 101; rows <= layout.capacity; ++rows) {
    const int64_t before = cache->committed_rows();
    ASSERT_TRUE(cache->EnsureRows(rows).ok());
    const int64_t after = cache->committed_rows();
    ASSERT_GE(after, rows);
    ASSERT_LE(after, layout.capacity);
    if (after == before) continue;
    ++steps;
    ASSERT_LE(after - before, std::max<int64_t>(256, before / 32)) << "it must not grow further ahead";
    ASSERT_TRUE(after - before >= std::min<int64_t>(layout.capacity - before, 256));
  }
  EXPECT_EQ(cache->committed_rows(), layout.capacity);
  EXPECT_LT(steps, 120) << "steps for 60,000 tokens one by one";
  std::memset(cache->rows(KvPart::kValues, 1) + layout.bytes_of(layout.capacity - 1), 1, layout.row_bytes());
}

TEST(FullCache, GrowsAheadFromTheFirstRowOn) {
  const BackendPtr backend = TestBackend();
  auto cache = FullCache::Create(backend.get(), TestLayout(4, 16, 16, 0), 1);
  ASSERT_TRUE(cache->EnsureRows(1).ok());
  EXPECT_EQ(cache->committed_rows(), 1);
  ASSERT_TRUE(cache->EnsureRows(2).ok());
  EXPECT_EQ(cache->committed_rows(), 1 + 256);
}

TEST(FullCache, StepsOfManyRowsAreTakenWhole) {
  const BackendPtr backend = TestBackend();
  KvLayout layout = TestLayout(4, 16, 16, 0);
  layout.capacity = 60000;
  auto cache = FullCache::Create(backend.get(), layout, 1);
  ASSERT_TRUE(cache->EnsureRows(1).ok());
  ASSERT_TRUE(cache->EnsureRows(40000).ok());
  EXPECT_EQ(cache->committed_rows(), 40000);
  ASSERT_TRUE(cache->EnsureRows(40001).ok());
  EXPECT_EQ(cache->committed_rows(), 40000 + 40000 / 32);
}

// Each head's K and each V ends inside a page of its own, unless all of them together are shorter than a page.
TEST(FullCache, WholePagesExceedRowsByTheirEnds) {
  KvLayout layout = TestLayout(4, 16, 16, 0);
  layout.head_dim = 32;
  layout.capacity = 1 << 20;  // rows of 128 bytes: 128 MiB, whole huge pages
  const uint64_t huge = uint64_t{2} << 20;
  EXPECT_EQ(FullCache::PageBytes(layout, 3, huge), 6 * huge);
  EXPECT_EQ(FullCache::PageBytes(layout, 0, huge), 0u);
  layout.capacity = (1 << 20) - 100;
  EXPECT_EQ(FullCache::PageBytes(layout, 3, huge), 6 * huge) << "each head begins on a page of 2 MiB";
  EXPECT_EQ(FullCache::PageBytes(layout, 3, 3 * huge), 12 * 3 * huge) << "each head begins and ends inside a page";
  layout.capacity = 32;  // 4 KiB
  EXPECT_EQ(FullCache::PageBytes(layout, 3, huge), huge) << "all in one page";
}

// One layer has one retrieval head, the other has two. Both also have streaming heads.
TEST(SplitKvCache, WholePagesExceedRowsInEveryLayer) {
  const KvLayout layout = TestLayout(4, 16, 16, 0);
  const uint64_t page = 1 << 14;
  const auto full = [&](int n_heads) { return FullCache::PageBytes(layout, n_heads, page); };
  EXPECT_EQ(SplitKvCache::PageBytes(layout, page), full(1) + page + full(2) + page);
  EXPECT_EQ(SplitKvCache::PageBytes(OfOneKind(true, 0), page), 2 * full(3)) << "no rings";
  EXPECT_EQ(SplitKvCache::PageBytes(OfOneKind(false, 0), page), 2 * page);
  EXPECT_EQ(SplitKvCache::PageBytes(layout, TestBackend()->CommitBytes()), 0u) << "the CPU backs only what is touched";
}

TEST(SplitKvCache, SaysWhenTheNextTokensTakeMemory) {
  const BackendPtr backend = TestBackend();
  SplitKvCache cache = Made(backend.get(), TestLayout(4, 16, 16, 0));
  EXPECT_TRUE(cache.GrowsWith(1));
  ASSERT_TRUE(cache.Expect(60).ok());
  EXPECT_FALSE(cache.GrowsWith(60));
  EXPECT_TRUE(cache.GrowsWith(61));
  ASSERT_TRUE(cache.Begin(60).ok());
  cache.Advance(60);
  EXPECT_FALSE(cache.GrowsWith(0));
  EXPECT_TRUE(cache.GrowsWith(1));

  EXPECT_FALSE(Made(backend.get(), OfOneKind(false, 0)).GrowsWith(400)) << "streaming heads only";
  SplitKvCache snapshots = Made(backend.get(), OfOneKind(false, 10));
  EXPECT_FALSE(snapshots.GrowsWith(9));
  EXPECT_TRUE(snapshots.GrowsWith(10));
  EXPECT_FALSE(snapshots.GrowsWith(0));
}

TEST(SplitKvCache, CapacityCountsWhatIsThere) {
  const BackendPtr backend = TestBackend();
  SplitKvCache cache = Made(backend.get(), TestLayout(4, 16, 16, 0));
  ASSERT_TRUE(cache.Begin(0).ok());
  EXPECT_EQ(cache.Begin(-1).code(), StatusCode::kResourceExhausted);
  ASSERT_TRUE(cache.Begin(300).ok());
  cache.Advance(300);
  EXPECT_TRUE(cache.Begin(200).ok());
  const Status status = cache.Begin(201);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "201 more tokens do not fit: the cache holds 300 tokens and was made for 500");
  EXPECT_EQ(cache.Expect(201).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(cache.FillSynthetic(201, 1).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(cache.len(), 300) << "the cache is unchanged";
}

TEST(SplitKvCache, HeadsOfOneKindNeedNoOther) {
  const BackendPtr backend = TestBackend();
  CacheModel full(backend.get(), Made(backend.get(), OfOneKind(true, 10)));
  full.Add(57);
  full.Check();
  EXPECT_TRUE(full.cache().extent().snapshots.empty()) << "there is no ring to copy";
  EXPECT_EQ(full.cache().Rewind(33), 33);
  full.Check();
  EXPECT_EQ(full.cache().bytes(), 33 * full.cache().layout().BytesPerToken());
  EXPECT_EQ(full.cache().longest(), 57);
  CacheModel streaming(backend.get(), Made(backend.get(), OfOneKind(false, 10)));
  streaming.Add(57);
  streaming.Check();
  EXPECT_EQ(streaming.cache().extent().snapshots, (std::vector<int64_t>{10, 20, 30, 40, 50}));
  EXPECT_EQ(streaming.cache().Rewind(33), 30);
  streaming.Check();
}

TEST(SplitKvCache, ARingNotYetFullHoldsEverythingAfterASnapshotToo) {
  const BackendPtr backend = TestBackend();
  CacheModel model(backend.get(), Made(backend.get(), TestLayout(0, 16, 16, 10)));
  model.Add(57);
  EXPECT_EQ(model.cache().Rewind(15), 10);
  model.Check();
  for (int64_t pos = 10; pos >= 0; --pos) EXPECT_EQ(model.cache().HeldAt(pos), pos) << "no sinks, and a ring of 16";
  model.Add(30);
  EXPECT_EQ(model.cache().Rewind(0), 0);
  model.Add(5);
  EXPECT_EQ(model.cache().HeldAt(3), 3);
  model.Check();
}

TEST(SplitKvCache, RemembersItsLongest) {
  const BackendPtr backend = TestBackend();
  CacheModel model(backend.get(), Made(backend.get(), TestLayout(4, 16, 16, 10)));
  model.Add(50);
  EXPECT_EQ(model.cache().longest(), 50);
  EXPECT_EQ(model.cache().HeldAt(31), 30);
  EXPECT_EQ(model.cache().len(), 50) << "HeldAt does not rewind";
  model.cache().Rewind(31);
  model.Add(5);
  EXPECT_EQ(model.cache().longest(), 50);
  auto copy = model.cache().ClonePrefix(35);
  ASSERT_TRUE(copy.ok());
  EXPECT_EQ(copy->longest(), 35) << "a copy has the rows that it needs";
}

TEST(SplitKvCache, ACloneOfAPrefixIsWhatARewindWouldLeave) {
  const BackendPtr backend = TestBackend();
  for (const KvType type : kTypes) {
    for (const int64_t pos : {0, 3, 10, 19, 20, 33, 41, 56, 57}) {
      CacheModel model(backend.get(), Made(backend.get(), TestLayout(2, 8, 8, 10, type)));
      model.Add(57);
      auto copied = model.cache().ClonePrefix(pos);
      ASSERT_TRUE(copied.ok());
      CacheModel copy(backend.get(), std::move(*copied));
      EXPECT_EQ(copy.cache().len(), model.cache().HeldAt(pos)) << pos;
      copy.Check();
      model.Check();
      model.cache().Rewind(pos);
      EXPECT_EQ(copy.cache().extent().snapshots, model.cache().extent().snapshots) << pos;
      EXPECT_EQ(copy.cache().extent().lowest_held, model.cache().extent().lowest_held) << pos;
      for (int64_t at = 0; at <= copy.cache().len(); ++at) {
        EXPECT_EQ(copy.cache().HeldAt(at), model.cache().HeldAt(at)) << pos << " and then " << at;
      }
      copy.Add(30);
      copy.Check();
    }
  }
}

TEST(SplitKvCache, SyntheticTokensCountAsOthersDo) {
  const BackendPtr backend = TestBackend();
  for (const KvType type : kTypes) {
    KvLayout layout = TestLayout(4, 16, 16, 0, type);
    layout.capacity = 3000;
    SplitKvCache cache = Made(backend.get(), layout);
    ASSERT_TRUE(cache.FillSynthetic(2500, 1).ok());
    EXPECT_EQ(cache.longest(), 2500);
    EXPECT_EQ(cache.extent().lowest_held, 2500 - 16);
    EXPECT_EQ(cache.HeldAt(2499), 2499);
    EXPECT_EQ(cache.HeldAt(2498), 0) << "the ring no longer holds what the token before the last saw";
    const auto row = [&](uint8_t* data, KvPart part, int64_t at) {
      std::vector<double> values;
      for (int d = 0; d < kDim; ++d) values.push_back(KvElement(data, part, type, at, kDim, d));
      return values;
    };
    const auto spread = [](const std::vector<double>& values) {
      return *std::max_element(values.begin(), values.end()) - *std::min_element(values.begin(), values.end());
    };
    std::set<std::vector<double>> different;
    for (const int64_t at : {0, 1, 1023, 1024, 2047, 2048, 2499}) {
      for (int head = 0; head < 2; ++head) {
        EXPECT_GT(spread(row(cache.full(1).rows(KvPart::kKeys, head), KvPart::kKeys, at)), 0.5) << at;
        EXPECT_GT(spread(row(cache.full(1).rows(KvPart::kValues, head), KvPart::kValues, at)), 0.5) << at;
      }
      if (at < 1024) different.insert(row(cache.full(0).rows(KvPart::kValues, 0), KvPart::kValues, at));
    }
    EXPECT_EQ(different.size(), 3u) << "rows of the table differ";
    for (int64_t slot = 0; slot < 20; ++slot) {
      for (int head = 0; head < 2; ++head) {
        EXPECT_GT(spread(row(cache.streaming(0).rows(KvPart::kKeys, head), KvPart::kKeys, slot)), 0.5) << slot;
        EXPECT_GT(spread(row(cache.streaming(0).rows(KvPart::kValues, head), KvPart::kValues, slot)), 0.5) << slot;
      }
    }
  }
}

TEST(SplitKvCache, BytesThatWereVisitedMakeTheSameCache) {
  const BackendPtr backend = TestBackend();
  for (const KvType type : kTypes) {
    for (const KvLayout& layout :
         {TestLayout(5, 8, 11, 10, type), TestLayout(5, 8, 11, 0, type), OfOneKind(true, 10), OfOneKind(false, 10)}) {
      CacheModel model(backend.get(), Made(backend.get(), layout));
      model.Add(57);
      std::vector<std::vector<uint8_t>> saved;
      uint64_t n_bytes = 0;
      ASSERT_TRUE(model.cache()
                      .VisitBytes([&](uint8_t* data, size_t bytes) {
                        saved.emplace_back(data, data + bytes);
                        n_bytes += bytes;
                        return OkStatus();
                      })
                      .ok());
      const SplitKvCache::Extent extent = model.cache().extent();
      EXPECT_EQ(n_bytes, SplitKvCache::ExtentBytes(layout, extent));
      CacheModel other(backend.get(), Made(backend.get(), layout));
      ASSERT_TRUE(other.cache().SetExtent(extent).ok());
      size_t next = 0;
      ASSERT_TRUE(other.cache()
                      .VisitBytes([&](uint8_t* data, size_t bytes) {
                        EXPECT_EQ(bytes, saved.at(next).size());
                        std::memcpy(data, saved[next].data(), saved[next].size());
                        ++next;
                        return OkStatus();
                      })
                      .ok());
      EXPECT_EQ(next, saved.size());
      EXPECT_EQ(other.cache().len(), 57);
      EXPECT_EQ(other.cache().longest(), 57);
      EXPECT_EQ(other.cache().bytes(), model.cache().bytes());
      other.Check();
      for (int64_t back = 8; other.cache().len() > 0; back += 8) {
        const int64_t pos = std::max<int64_t>(0, other.cache().len() - back);
        EXPECT_EQ(other.cache().Rewind(pos), model.cache().Rewind(pos)) << pos;
        other.Check();
      }
    }
  }
}

TEST(SplitKvCache, AVisitEndsWithTheFirstError) {
  const BackendPtr backend = TestBackend();
  CacheModel model(backend.get(), Made(backend.get(), TestLayout(5, 8, 8, 10)));
  const auto visits = [&](int64_t bad) {
    int64_t n = 0;
    const Status status = model.cache().VisitBytes([&](uint8_t*, size_t bytes) {
      EXPECT_GT(bytes, 0u);
      return n++ == bad ? Status(StatusCode::kCorrupt, "here") : OkStatus();
    });
    EXPECT_EQ(status.ok(), bad < 0);
    return n;
  };
  EXPECT_EQ(visits(-1), 2) << "rings of both layers, no rows yet";
  model.Add(21);
  const int64_t all = visits(-1);
  EXPECT_EQ(all, 2 * 3 + 2 + 2) << "K and V of three heads, rings of two layers, two snapshots";
  for (int64_t bad = 0; bad < all; ++bad) EXPECT_EQ(visits(bad), bad + 1);
}

TEST(SplitKvCache, RefusesExtentsThatNoCacheHas) {
  const BackendPtr backend = TestBackend();
  const auto set = [&](const KvLayout& layout, const SplitKvCache::Extent& extent) {
    SplitKvCache cache = Made(backend.get(), layout);
    const Status status = cache.SetExtent(extent);
    EXPECT_EQ(cache.len(), status.ok() ? extent.len : 0);
    return status.code();
  };
  const KvLayout layout = TestLayout(4, 16, 16, 10);
  const StatusCode ok = StatusCode::kOk, bad = StatusCode::kInvalidArgument;
  EXPECT_EQ(set(layout, {0, 0, {}}), ok);
  EXPECT_EQ(set(layout, {50, 34, {10, 50}}), ok);
  EXPECT_EQ(set(layout, {50, 50, {10, 20}}), ok) << "the rings may hold fewer positions than they have rows";
  EXPECT_EQ(set(layout, {5, 0, {}}), ok);
  EXPECT_EQ(set(layout, {-1, 0, {}}), bad);
  EXPECT_EQ(set(layout, {50, -1, {}}), bad);
  EXPECT_EQ(set(layout, {5, -1, {}}), bad);
  EXPECT_EQ(set(layout, {50, 51, {}}), bad);
  EXPECT_EQ(set(layout, {50, 33, {}}), bad) << "more than a ring has";
  EXPECT_EQ(set(layout, {50, 34, {20, 10}}), bad);
  EXPECT_EQ(set(layout, {50, 34, {20, 20}}), bad);
  EXPECT_EQ(set(layout, {50, 34, {0, 20}}), bad);
  EXPECT_EQ(set(layout, {50, 34, {-10, 20}}), bad);
  EXPECT_EQ(set(layout, {50, 34, {15}}), bad);
  EXPECT_EQ(set(layout, {50, 34, {60}}), bad);
  EXPECT_EQ(set(layout, {501, 490, {}}), StatusCode::kResourceExhausted);
  EXPECT_EQ(set(TestLayout(4, 16, 16, 0), {50, 34, {10}}), bad) << "this layout has no snapshots";
  EXPECT_EQ(set(TestLayout(4, 16, 16, 1), {50, 34, {10, 11}}), ok);
  EXPECT_EQ(set(OfOneKind(true, 10), {50, 34, {10}}), bad) << "no rings";
  EXPECT_EQ(set(OfOneKind(true, 10), {50, 34, {}}), ok);
}

}  // namespace
}  // namespace duo
