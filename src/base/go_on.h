// How long work asks its caller whether to continue.
#pragma once

#include <functional>

namespace duo {

/// Asked between the steps of long work. Return false to stop: the work then returns kCancelled. May be empty.
using GoOn = std::function<bool()>;

}  // namespace duo
