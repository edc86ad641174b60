// The error of work that was asked to stop.
#pragma once

#include "duo/result.h"

namespace duo {

/// For work that ends because a progress or text callback returned false, or because of Ctrl-C.
inline Status Cancelled() { return Status(StatusCode::kCancelled, "stopped on request"); }

}  // namespace duo
