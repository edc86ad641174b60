// The CPU backend. It runs the kernels of one instruction set on OpenMP threads.
#pragma once

#include "backend/backend.h"

namespace duo {

/// Returns the errors of CreateBackend.
Result<BackendPtr> CreateCpuBackend(const BackendOptions& options);

}  // namespace duo
