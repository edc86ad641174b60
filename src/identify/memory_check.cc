#include "identify/memory_check.h"

#include <string>

#include "backend/backend.h"
#include "base/memory_info.h"

namespace duo {

Status CheckFits(const Model& model, int64_t n_tokens, uint64_t needed, uint64_t limit) {
  const uint64_t available = MemoryBudget(limit, model.backend()->AvailableBytes(), model.mapped_bytes());
  if (needed <= available) return OkStatus();
  return Status(StatusCode::kResourceExhausted, "texts of " + std::to_string(n_tokens) + " tokens need " +
                                                    FormatBytes(needed) + ", " + FormatBytes(available) +
                                                    " are available; shorter texts need less");
}

}  // namespace duo
