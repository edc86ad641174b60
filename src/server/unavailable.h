// The reason why the server does not do something at this moment: a value for code, beside the sentence for people.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "duo/result.h"

namespace duo {

enum class Unavailable : uint8_t {
  kQueueFull,    // as many requests wait as may
  kStopping,     // the server is shutting down
  kSessionBusy,  // a request, a save or a restore has the session
  kNoMemory,     // running requests hold the memory
};

/// A status of the code kUnavailable that WhyUnavailable understands.
Status NotNow(Unavailable why, std::string sentence);

/// Why `status` is kUnavailable; empty for every other status.
std::optional<Unavailable> WhyUnavailable(const Status& status);

/// The one sentence of a server that shuts down.
Status Stopping();

}  // namespace duo
