// Copies weights to a backend that has its own memory.
#include <map>
#include <string>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "base/memory_info.h"
#include "model/fingerprint.h"
#include "model/weights.h"

namespace duo {
namespace {

/// Calls `visit` with the address of every pointer in the weights and the number of bytes it points to.
template <class Visit>
Status ForEachPart(Model::Weights* w, const Visit& visit) {
  const ModelConfig& c = w->config;
  const auto matrix = [&](MatrixView* m) -> Status {
    const size_t scale_bytes = m->scale == nullptr ? 0 : m->n_out * sizeof(float);
    DUO_RETURN_IF_ERROR(visit(&m->data, m->bytes() - scale_bytes));
    return visit(&m->scale, scale_bytes);
  };
  const auto vector = [&](const float** v, int64_t n) { return visit(v, n * sizeof(float)); };
  DUO_RETURN_IF_ERROR(matrix(&w->embedding));
  DUO_RETURN_IF_ERROR(matrix(&w->lm_head));
  DUO_RETURN_IF_ERROR(vector(&w->final_norm, c.hidden_size));
  for (LayerWeights& layer : w->layers) {
    DUO_RETURN_IF_ERROR(vector(&layer.attention_norm, c.hidden_size));
    DUO_RETURN_IF_ERROR(vector(&layer.mlp_norm, c.hidden_size));
    DUO_RETURN_IF_ERROR(vector(&layer.q_norm, c.head_dim));
    DUO_RETURN_IF_ERROR(vector(&layer.k_norm, c.head_dim));
    const std::pair<MatrixView*, const float**> products[] = {
        {&layer.q, &layer.q_bias},      {&layer.k, &layer.k_bias},       {&layer.v, &layer.v_bias},
        {&layer.o, &layer.o_bias},      {&layer.gate, &layer.gate_bias}, {&layer.up, &layer.up_bias},
        {&layer.down, &layer.down_bias}};
    for (const auto& [m, bias] : products) {
      DUO_RETURN_IF_ERROR(matrix(m));
      DUO_RETURN_IF_ERROR(vector(bias, m->n_out));
    }
  }
  return OkStatus();
}

}  // namespace

Status Model::Weights::Place(const ModelOptions& options) {
  DUO_ASSIGN_OR_RETURN(const DeviceMemoryPtr probe, backend->Upload(final_norm, sizeof(float)));
  if (probe == nullptr) return OkStatus();
  std::string before = ModelFingerprint(*this);
  if (total_bytes > backend->AvailableBytes()) {
    return ResourceExhausted(
               "the weights need {} of device memory, but only {} are free; int8 or int4 weights need less",
               FormatBytes(total_bytes), FormatBytes(backend->AvailableBytes()))
        .About("weights");
  }
  std::map<const void*, const void*> done;  // tied matrices are uploaded once
  const auto begin = Clock::now();
  size_t bytes_done = 0;
  const auto place = [&](auto** at, size_t bytes) -> Status {
    if (*at == nullptr || bytes == 0) return OkStatus();
    auto found = done.find(*at);
    if (found == done.end()) {
      DUO_ASSIGN_OR_RETURN(DeviceMemoryPtr memory, backend->Upload(*at, bytes));
      found = done.emplace(*at, memory->data()).first;
      placed_.push_back(std::move(memory));
      bytes_done += bytes;
    }
    *at = static_cast<std::remove_reference_t<decltype(*at)>>(found->second);
    const bool go_on = !options.progress || options.progress({.stage = "upload",
                                                              .done = static_cast<int64_t>(bytes_done >> 20),
                                                              .total = static_cast<int64_t>(total_bytes >> 20),
                                                              .unit = "MiB",
                                                              .seconds = SecondsSince(begin)});
    return go_on ? OkStatus() : Cancelled();
  };
  DUO_RETURN_IF_ERROR(ForEachPart(this, place));
  // Uploads may still read the host's memory. Wait for them before it is freed.
  uint8_t waited;
  DUO_RETURN_IF_ERROR(backend->ToHost(placed_.back()->data(), &waited, 1));
  fingerprint = std::move(before);
  quantized_.clear();
  vectors_.clear();
  random_ = Buffer();
  checkpoint_.reset();
  mapped_bytes = 0;
  return OkStatus();
}

}  // namespace duo
