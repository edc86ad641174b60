#include "model/activations.h"

#include <algorithm>
#include <vector>

#include "base/align.h"
#include "model/weights.h"

namespace duo {
namespace {

struct Part {
  float* Activations::*pointer;
  int64_t floats;
};

// q, k, v and attended could share memory with gate and up, which are used after them. They have their own memory, so
// that every pointer means one thing.
std::vector<Part> Parts(const ModelConfig& c, int64_t n) {
  const int64_t q = c.q_width(), kv = c.kv_width();
  return {{&Activations::x, n * c.hidden_size},
          {&Activations::normed, n * c.hidden_size},
          {&Activations::q, n * q},
          {&Activations::k, n * kv},
          {&Activations::v, n * kv},
          {&Activations::attended, n * q},
          {&Activations::gate, n * c.intermediate_size},
          {&Activations::up, n * c.intermediate_size},
          {&Activations::logits, std::min(n, Activations::kLogitRows) * c.vocab_size}};
}

uint64_t PaddedBytes(int64_t floats) { return RoundUp(floats * sizeof(float), kCacheLineBytes); }

}  // namespace

uint64_t Activations::Bytes(const ModelConfig& config, int64_t max_tokens) {
  uint64_t bytes = 0;
  for (const Part& part : Parts(config, max_tokens)) bytes += PaddedBytes(part.floats);
  return bytes;
}

CallBounds CallBoundsOf(const ModelConfig& c, int64_t n_tokens, ComputeType compute) {
  const int64_t widest = std::max({c.hidden_size, c.q_width(), c.intermediate_size});
  const int64_t logits = std::min(n_tokens, Activations::kLogitRows) * c.vocab_size;
  return {.n_tokens = n_tokens,
          .widest_input = widest,
          .max_outputs = std::max(n_tokens * widest, logits),
          .largest_matrix = c.hidden_size * std::max(widest, c.vocab_size),
          .n_kv_heads = c.n_kv_heads,
          .group = c.group(),
          .head_dim = c.head_dim,
          .compute = compute,
          .weights = MatrixType(c)};
}

Result<Activations> Activations::Create(Backend* backend, const ModelConfig& config, int64_t max_tokens) {
  Activations act;
  act.max_tokens = max_tokens;
  DUO_ASSIGN_OR_RETURN(act.memory_, backend->Allocate(Bytes(config, max_tokens)));
  uint8_t* at = act.memory_->data();
  for (const Part& part : Parts(config, max_tokens)) {
    act.*part.pointer = reinterpret_cast<float*>(at);
    at += PaddedBytes(part.floats);
  }
  return act;
}

}  // namespace duo
