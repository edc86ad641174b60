#include "identify/memory_check.h"

#include "backend/backend.h"
#include "base/error.h"
#include "base/memory_info.h"

namespace duo {

Status CheckFits(const Model& model, int64_t n_tokens, uint64_t needed, uint64_t limit) {
  const uint64_t available = MemoryBudget(limit, model.backend()->AvailableBytes(), model.mapped_bytes());
  if (needed <= available) return OkStatus();
  return ResourceExhausted("texts of {} tokens need {}, {} are available; shorter texts need less", n_tokens,
                           FormatBytes(needed), FormatBytes(available));
}

}  // namespace duo
