#include "kv/kv_layout.h"

#include <fmt/format.h>

#include "base/error.h"

namespace duo {
namespace {

constexpr int64_t kMaxWindow = int64_t{1} << 32;    // tokens
constexpr int64_t kMaxCapacity = int64_t{1} << 36;  // tokens

Status Bad(const char* name, int64_t value, int64_t low, int64_t high) {
  return BadOption(name, value, fmt::format("{}..{} tokens", low, high));
}

}  // namespace

uint64_t KvLayout::BytesPerToken() const { return static_cast<uint64_t>(heads.n_retrieval()) * 2 * row_bytes(); }

uint64_t KvLayout::FixedBytes() const {
  const auto n_streaming = static_cast<uint64_t>(heads.n_layers * heads.n_kv_heads - heads.n_retrieval());
  return n_streaming * 2 * bytes_of(sink + ring());
}

uint64_t KvLayout::SnapshotBytes(int64_t n_tokens) const {
  if (snapshot_every == 0) return 0;
  const auto n_streaming = static_cast<uint64_t>(heads.n_layers * heads.n_kv_heads - heads.n_retrieval());
  return static_cast<uint64_t>(n_tokens / snapshot_every) * n_streaming * 2 * ring_bytes();
}

Status CheckKvLayout(const KvLayout& layout) {
  if (layout.sink < 0 || layout.sink > kMaxWindow) return Bad("sink", layout.sink, 0, kMaxWindow);
  if (layout.recent < 1 || layout.recent > kMaxWindow) return Bad("recent", layout.recent, 1, kMaxWindow);
  if (layout.prefill_recent < layout.recent || layout.prefill_recent > kMaxWindow) {
    return Bad("prefill_recent", layout.prefill_recent, layout.recent, kMaxWindow);
  }
  if (layout.capacity < 1 || layout.capacity > kMaxCapacity)
    return Bad("max_context", layout.capacity, 1, kMaxCapacity);
  if (layout.snapshot_every < 0 || layout.snapshot_every > kMaxCapacity) {
    return Bad("snapshot_every", layout.snapshot_every, 0, kMaxCapacity);
  }
  return OkStatus();
}

}  // namespace duo
