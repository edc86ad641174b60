#include "server/unavailable.h"

#include <utility>

namespace duo {
namespace {

struct Name {
  Unavailable why;
  const char* subject;  // of the status
};

constexpr Name kNames[] = {{Unavailable::kQueueFull, "queue"},
                           {Unavailable::kStopping, "server"},
                           {Unavailable::kSessionBusy, "session"},
                           {Unavailable::kNoMemory, "memory"}};

}  // namespace

Status NotNow(Unavailable why, std::string sentence) {
  Status status(StatusCode::kUnavailable, std::move(sentence));
  for (const Name& name : kNames) {
    if (name.why == why) return status.About(name.subject);
  }
  return status;
}

std::optional<Unavailable> WhyUnavailable(const Status& status) {
  if (status.code() != StatusCode::kUnavailable) return std::nullopt;
  for (const Name& name : kNames) {
    if (status.subject() == name.subject) return name.why;
  }
  return std::nullopt;
}

Status Stopping() { return NotNow(Unavailable::kStopping, "the server is shutting down"); }

}  // namespace duo
