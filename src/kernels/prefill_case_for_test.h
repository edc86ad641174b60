// Cases of prefill attention for tests of every implementation, and the reference's results for them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "base/rng.h"
#include "kernels/attention.h"
#include "kernels/attention_test_util.h"
#include "kernels/mask.h"
#include "kernels/reference/attention_reference.h"

namespace duo::attention_test {

struct PrefillCase {
  Shape shape;
  int64_t n_tokens = 1;
  int64_t q_pos = 0;
  int64_t n_sink_rows = 0;
  int64_t body_pos = 0;
  int64_t n_rows = 0;
  LambdaMask mask;
};

inline std::string Describe(const PrefillCase& c) {
  return Describe(c.shape) + " tokens " + std::to_string(c.n_tokens) + " at " + std::to_string(c.q_pos) + " rows " +
         std::to_string(c.n_rows) + " (" + std::to_string(c.n_sink_rows) + " sinks, body at " +
         std::to_string(c.body_pos) + ") sink " + std::to_string(c.mask.sink) + " window " +
         std::to_string(c.mask.window);
}

// A retrieval or streaming head whose cache holds every position up to the last token of the chunk.
inline PrefillCase WholeCache(Shape s, int64_t q_pos, int64_t n_tokens, LambdaMask mask) {
  return {.shape = s, .n_tokens = n_tokens, .q_pos = q_pos, .n_rows = q_pos + n_tokens, .mask = mask};
}

// A streaming head whose cache holds its sinks, the window before the chunk, and the chunk.
inline PrefillCase SplitCache(Shape s, int64_t q_pos, int64_t n_tokens, LambdaMask mask) {
  const int64_t sinks = std::min(mask.sink, q_pos);
  const int64_t body_pos = std::max(sinks, q_pos - mask.window + 1);
  return {.shape = s,
          .n_tokens = n_tokens,
          .q_pos = q_pos,
          .n_sink_rows = sinks,
          .body_pos = body_pos,
          .n_rows = sinks + q_pos + n_tokens - body_pos,
          .mask = mask};
}

// Fills the rows that some query sees. The others stay NaN, so that a kernel which touches them fails.
inline void FillSeenRows(const PrefillCase& c, TestRows* k, TestRows* v, Rng* rng) {
  for (int64_t r = 0; r < c.n_rows; ++r) {
    const int64_t pos = r < c.n_sink_rows ? r : c.body_pos + r - c.n_sink_rows;
    bool seen = false;
    for (int64_t t = 0; t < c.n_tokens && !seen; ++t) seen = Sees(c.mask, c.q_pos + t, pos);
    if (!seen) continue;
    SetNormalRow(k, r, 1.0, rng);
    SetNormalRow(v, r, 1.0, rng);
  }
}

// The shape of a call with one head: the tokens follow one another without gaps.
inline AttentionShape ShapeOf(const PrefillCase& c) {
  AttentionShape shape = ShapeOf(c.shape);
  shape.q_stride = int64_t{c.shape.group} * c.shape.head_dim;
  shape.lse_stride = c.shape.group;
  shape.q_pos = c.q_pos;
  shape.n_tokens = c.n_tokens;
  return shape;
}

inline PrefillHead HeadOf(const PrefillCase& c, const float* q, const TestRows& k, const TestRows& v, float* out,
                          float* lse) {
  return {.q = q,
          .k = k.data(),
          .v = v.data(),
          .n_rows = c.n_rows,
          .n_sink_rows = c.n_sink_rows,
          .body_pos = c.body_pos,
          .mask = c.mask,
          .out = out,
          .lse = lse};
}

// The reference's results for queries q, with token t at q + t * q_stride.
struct PrefillReference {
  PrefillReference(const PrefillCase& c, const float* q, int64_t q_stride, const TestRows& k, const TestRows& v) {
    const int64_t width = int64_t{c.shape.group} * c.shape.head_dim;
    out.resize(c.n_tokens * width), magnitude.resize(c.n_tokens * width), lse.resize(c.n_tokens * c.shape.group);
    std::vector<float> queries;
    for (int64_t t = 0; t < c.n_tokens; ++t) {
      queries.insert(queries.end(), q + t * q_stride, q + t * q_stride + width);
    }
    PrefillAttention a{ShapeOf(c), HeadOf(c, queries.data(), k, v, out.data(), lse.data())};
    ReferencePrefillAttention(a);
    const TestRows keys = k.Floats(), magnitudes = v.Floats(true);
    a.shape.kv_type = KvType::kF32;
    a.head = HeadOf(c, queries.data(), keys, magnitudes, magnitude.data(), nullptr);
    ReferencePrefillAttention(a);
  }
  std::vector<float> out;        // [n_tokens, group, head_dim]
  std::vector<float> magnitude;  // the same for |v|; the error bound is relative to it
  std::vector<float> lse;        // [n_tokens, group]
};

}  // namespace duo::attention_test
