// The CPU backend: kernels of one instruction set, spread over OpenMP threads.
#pragma once

#include "backend/backend.h"

namespace duo {

/// Errors as CreateBackend.
Result<BackendPtr> CreateCpuBackend(const BackendOptions& options);

}  // namespace duo
