// The reason why the server cannot do something now: a value for code, besides the sentence for people.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "duo/result.h"

namespace duo {

enum class Unavailable : uint8_t {
  kQueueFull,    // max_waiting requests wait already
  kStopping,     // the server is shutting down
  kSessionBusy,  // a request, a save or a restore uses the session
  kNoMemory,     // running requests hold the memory
};

/// A status with the code kUnavailable whose reason WhyUnavailable returns.
Status NotNow(Unavailable why, std::string sentence);

/// The reason why `status` is kUnavailable; empty for every other status.
std::optional<Unavailable> WhyUnavailable(const Status& status);

/// The status for requests to a server that shuts down.
Status Stopping();

}  // namespace duo
