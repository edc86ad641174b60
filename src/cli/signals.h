// Ctrl-C: the first one asks the work to stop, and the second one ends the process.
#pragma once

#include "base/error.h"

namespace duo::cli {

/// kCancelled, for work that Ctrl-C ended.
template <typename... T>
Status Stopped(fmt::format_string<T...> format, const T&... values) {
  return FormatError(StatusCode::kCancelled, format, fmt::make_format_args(values...));
}

/// Installs the handler for SIGINT and SIGTERM. Called once by main before a verb runs.
void CatchInterrupts();

/// Installs a handler for SIGBUS, which is raised when a mapped file is cut while it is read. The handler writes one
/// sentence with the file's name and ends the process with exit code 1.
void CatchBusErrors();

/// Whether a signal came since CatchInterrupts or the last ClearInterrupt. It is cheap enough to ask between steps.
bool Interrupted();

/// Forgets a Ctrl-C and catches the next one. Chat needs this, because there Ctrl-C ends only one answer. A SIGTERM is
/// not forgotten, because it ends the whole program.
void ClearInterrupt();

}  // namespace duo::cli
