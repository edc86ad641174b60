// The backend on one NVIDIA GPU.
#pragma once

#include "duo/backend.h"

namespace duo {

/// Errors as CreateBackend; kUnsupported says what is missing: a device, its architecture, a newer driver.
Result<BackendPtr> CreateCudaBackend(const BackendOptions& options);

}  // namespace duo
