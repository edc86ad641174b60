// The backend on one NVIDIA GPU.
#pragma once

#include "duo/backend.h"

namespace duo {

/// Returns the errors of CreateBackend. kUnsupported says what is missing: a device, a newer device or a newer driver.
Result<BackendPtr> CreateCudaBackend();

}  // namespace duo
