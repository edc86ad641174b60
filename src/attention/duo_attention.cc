#include "attention/duo_attention.h"

#include <algorithm>

#include "base/check.h"

namespace duo {
namespace {

int MaxStreamingHeads(const HeadChoice& heads) {
  int most = 0;
  for (int layer = 0; layer < heads.n_layers; ++layer) {
    most = std::max(most, heads.n_kv_heads - heads.n_retrieval_in(layer));
  }
  return most;
}

size_t ScratchHeadBytes(const KvLayout& layout, int64_t max_chunk) {
  return layout.bytes_of(layout.sink + layout.ring() + max_chunk);
}

AttentionShape ShapeOf(const AttentionInput& input, const KvLayout& layout, int64_t pos) {
  return {.group = input.group,
          .head_dim = layout.head_dim,
          .q_stride = int64_t{layout.heads.n_kv_heads} * input.group * layout.head_dim,
          .lse_stride = int64_t{layout.heads.n_kv_heads} * input.group,
          .q_pos = pos,
          .n_tokens = input.n_tokens,
          .kv_type = layout.type,
          .compute = input.compute,
          .scale = input.scale};
}

}  // namespace

uint64_t DuoAttention::ScratchBytes(const KvLayout& layout, int64_t max_chunk) {
  return 2 * static_cast<uint64_t>(MaxStreamingHeads(layout.heads)) * ScratchHeadBytes(layout, max_chunk);
}

Result<DuoAttention> DuoAttention::Create(Backend* backend, const KvLayout& layout, int64_t max_chunk) {
  DuoAttention attention(backend, max_chunk);
  DUO_RETURN_IF_ERROR(attention.Fit(layout));
  return attention;
}

Status DuoAttention::Fit(const KvLayout& layout) {
  const uint64_t bytes = ScratchBytes(layout, max_chunk_);
  if (bytes == 0 || (scratch_ != nullptr && scratch_->bytes() >= bytes)) return OkStatus();
  scratch_.reset();
  DUO_ASSIGN_OR_RETURN(scratch_, backend_->Allocate(bytes));
  return OkStatus();
}

uint8_t* DuoAttention::GatheredRows(const SplitKvCache& cache, int layer, KvPart part, int index) const {
  const int first = part == KvPart::kKeys ? 0 : cache.streaming(layer).n_heads();
  return scratch_->data() + (first + index) * ScratchHeadBytes(cache.layout(), max_chunk_);
}

Status DuoAttention::Run(const AttentionInput& input, int layer, SplitKvCache* cache) {
  return input.n_tokens == 1 ? RunTogether(input, layer, {&cache, 1}) : Prefill(input, layer, cache);
}

Status DuoAttention::RunTogether(const AttentionInput& input, int layer, std::span<SplitKvCache* const> caches) {
  stores_.clear();
  decode_heads_.clear();
  const KvLayout& first = caches.front()->layout();
  const int dim = first.head_dim, n_kv_heads = first.heads.n_kv_heads;
  for (int64_t t = 0; t < std::ssize(caches); ++t) {
    SplitKvCache* cache = caches[t];
    const KvLayout& layout = cache->layout();
    DUO_CHECK(layout.type == first.type && layout.head_dim == dim && layout.heads.n_kv_heads == n_kv_heads,
              "sequences that are decoded together must have the same KV type and shape");
    const int64_t pos = cache->len();
    const int64_t window = input.kind == TokenKind::kPrompt ? layout.prefill_recent : layout.recent;
    for (int h = 0; h < n_kv_heads; ++h) {
      const KvHead kv = cache->head(layer, h);
      uint8_t *k = kv.rows(KvPart::kKeys), *v = kv.rows(KvPart::kValues);
      const int64_t kv_head = t * n_kv_heads + h, q_head = kv_head * input.group;
      stores_.push_back({input.k + kv_head * dim, dim, k, kv.Slot(pos), 1, KvPart::kKeys});
      stores_.push_back({input.v + kv_head * dim, dim, v, kv.Slot(pos), 1, KvPart::kValues});
      DecodeHead head{.q = input.q + q_head * dim,
                      .k = k,
                      .v = v,
                      .out = input.out + q_head * dim,
                      .lse = input.lse == nullptr ? nullptr : input.lse + q_head};
      kv.SlotRanges(pos, window, head.ranges);
      decode_heads_.push_back(head);
    }
  }
  backend_->StoreRows(stores_, dim, first.type);
  return backend_->DecodeAttention(ShapeOf(input, first, caches.front()->len()), decode_heads_);
}

DuoAttention::Window DuoAttention::WindowFor(const KvLayout& layout, int64_t pos, int64_t n_tokens,
                                             int64_t window) const {
  const int64_t n_sink_rows = std::min(layout.sink, pos);
  const int64_t body_pos = std::max(n_sink_rows, pos - window + 1);
  return {n_sink_rows, body_pos, n_sink_rows + (pos - body_pos) + n_tokens};
}

Status DuoAttention::Prefill(const AttentionInput& input, int layer, SplitKvCache* cache) {
  const KvLayout& layout = cache->layout();
  const int64_t pos = cache->len();
  const int64_t n = input.n_tokens;
  const int dim = layout.head_dim;
  const int64_t kv_stride = int64_t{layout.heads.n_kv_heads} * dim;
  const int64_t mask_window = input.kind == TokenKind::kPrompt ? layout.prefill_recent : layout.recent;
  const Window window = WindowFor(layout, pos, n, mask_window);
  const bool any_streaming = cache->streaming(layer).n_heads() != 0;
  if (any_streaming) DUO_RETURN_IF_ERROR(Fit(layout));
  if (any_streaming) GatherWindow(layer, cache, window);
  stores_.clear();
  prefill_heads_.clear();
  for (int h = 0; h < layout.heads.n_kv_heads; ++h) {
    const KvHead kv = cache->head(layer, h);
    const auto rows = [&](KvPart part) {
      return kv.retrieval() ? kv.rows(part) : GatheredRows(*cache, layer, part, kv.index());
    };
    uint8_t *k = rows(KvPart::kKeys), *v = rows(KvPart::kValues);
    const int64_t chunk_row = kv.retrieval() ? pos : window.n_rows - n;
    stores_.push_back({input.k + h * dim, kv_stride, k, chunk_row, n, KvPart::kKeys});
    stores_.push_back({input.v + h * dim, kv_stride, v, chunk_row, n, KvPart::kValues});
    PrefillHead head{.q = input.q + int64_t{h} * input.group * dim,
                     .k = k,
                     .v = v,
                     .n_rows = pos + n,
                     .n_sink_rows = 0,
                     .body_pos = 0,
                     .mask = {},
                     .out = input.out + int64_t{h} * input.group * dim,
                     .lse = input.lse == nullptr ? nullptr : input.lse + h * input.group};
    if (!kv.retrieval()) {
      head.n_rows = window.n_rows;
      head.n_sink_rows = window.n_sink_rows;
      head.body_pos = window.body_pos;
      head.mask = {.sink = layout.sink, .window = mask_window};
    }
    prefill_heads_.push_back(head);
  }
  backend_->StoreRows(stores_, dim, layout.type);
  DUO_RETURN_IF_ERROR(backend_->PrefillAttention(ShapeOf(input, layout, pos), prefill_heads_));
  if (any_streaming) ScatterWindow(input, layer, cache, window);
  return OkStatus();
}

// Copies from the cache to the scratch: the sinks so far and positions [body_pos, pos), which are one or two ranges of
// the ring.
void DuoAttention::GatherWindow(int layer, SplitKvCache* cache, const Window& window) {
  const int64_t pos = cache->len();
  const StreamingCache& streaming = cache->streaming(layer);
  const KvLayout& layout = cache->layout();
  copies_.clear();
  for (int i = 0; i < streaming.n_heads(); ++i) {
    for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
      const uint8_t* src = streaming.rows(part, i);
      uint8_t* dst = GatheredRows(*cache, layer, part, i);
      copies_.push_back({src, 0, dst, 0, window.n_sink_rows, part});
      int64_t row = window.n_sink_rows;
      for (int64_t p = window.body_pos; p < pos;) {
        const int64_t slot = streaming.Slot(p);
        const int64_t n = std::min(pos - p, layout.sink + layout.ring() - slot);
        copies_.push_back({src, slot, dst, row, n, part});
        row += n;
        p += n;
      }
    }
  }
  backend_->CopyRows(copies_, layout.head_dim, layout.type);
}

// Copies from the scratch to the cache: the chunk's sinks, and as many of its last other rows as the ring holds.
void DuoAttention::ScatterWindow(const AttentionInput& input, int layer, SplitKvCache* cache, const Window& window) {
  const int64_t pos = cache->len();
  const int64_t end = pos + input.n_tokens;
  StreamingCache& streaming = cache->streaming(layer);
  const KvLayout& layout = cache->layout();
  const int64_t chunk_row = window.n_rows - input.n_tokens;
  copies_.clear();
  for (int i = 0; i < streaming.n_heads(); ++i) {
    for (const KvPart part : {KvPart::kKeys, KvPart::kValues}) {
      const uint8_t* src = GatheredRows(*cache, layer, part, i);
      uint8_t* dst = streaming.rows(part, i);
      auto copy = [&](int64_t from, int64_t n) {
        copies_.push_back({src, chunk_row + from - pos, dst, streaming.Slot(from), n, part});
      };
      if (pos < layout.sink) copy(pos, std::min(end, layout.sink) - pos);
      for (int64_t p = std::max({pos, layout.sink, end - layout.ring()}); p < end;) {
        const int64_t n = std::min(end - p, layout.sink + layout.ring() - streaming.Slot(p));
        copy(p, n);
        p += n;
      }
    }
  }
  backend_->CopyRows(copies_, layout.head_dim, layout.type);
}

}  // namespace duo
