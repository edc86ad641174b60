// Ctrl-C: the first one asks the work to stop, the second one ends the process.
#pragma once

namespace duo::cli {

/// Installs the handler for SIGINT and SIGTERM. Called once by main before a verb runs.
void CatchInterrupts();

/// Installs a handler for SIGBUS, which a mapped file that was cut while it is read raises: it writes one sentence with
/// the file's name and ends the process with exit code 1.
void CatchBusErrors();

/// Whether a signal came since CatchInterrupts or the last ClearInterrupt. Cheap; asked between steps.
bool Interrupted();

/// Forgets the first Ctrl-C and catches the next again: for chat, where it ends one answer. A SIGTERM stays: it is
/// about the whole program.
void ClearInterrupt();

}  // namespace duo::cli
