#include "cli/signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>

#include "cli/commands.h"

namespace duo::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

volatile std::sig_atomic_t terminated = 0;

void OnSignal(int signal) {
  if (signal == SIGTERM) terminated = 1;
  interrupted = 1;
}

// ---- SIGBUS. This code does only what POSIX allows in a signal handler: it allocates no memory and calls
// only async-signal-safe functions.

void WriteText(const char* text, size_t n) {
  while (n > 0) {
    const ssize_t written = write(STDERR_FILENO, text, n);
    if (written <= 0) return;
    text += written;
    n -= written;
  }
}
void WriteText(const char* text) { WriteText(text, std::strlen(text)); }

/// Reads the hexadecimal number at *at and moves *at past it.
uintptr_t ReadHex(const char** at) {
  uintptr_t value = 0;
  for (;; ++*at) {
    const char c = **at;
    if (c >= '0' && c <= '9') {
      value = value * 16 + static_cast<uintptr_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      value = value * 16 + static_cast<uintptr_t>(c - 'a' + 10);
    } else {
      return value;
    }
  }
}

/// Returns the path in a line of /proc/self/maps ("begin-end rwxp offset device inode   path") when `address` is in the
/// line's range, else null.
const char* PathIfHere(const char* line, uintptr_t address) {
  const uintptr_t begin = ReadHex(&line);
  if (*line != '-') return nullptr;
  ++line;
  const uintptr_t end = ReadHex(&line);
  return address >= begin && address < end ? std::strchr(line, '/') : nullptr;
}

/// Writes the path of the file that is mapped at `address`; false when there is none.
bool WriteMappedPath(uintptr_t address) {
  const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (maps < 0) return false;
  char line[4600];  // the longest path and the numbers before it
  size_t n = 0;
  bool found = false;
  char c;
  while (!found && read(maps, &c, 1) == 1) {
    if (c != '\n') {
      if (n + 1 < sizeof line) line[n++] = c;
      continue;
    }
    line[n] = '\0';
    n = 0;
    if (const char* path = PathIfHere(line, address)) {
      WriteText(path);
      found = true;
    }
  }
  close(maps);
  return found;
}

std::atomic_flag bus_error_is_told;

void OnBusError(int, siginfo_t* info, void*) {
  // Every thread that reads the file may get here: one writes the error, the others wait until the process ends.
  while (bus_error_is_told.test_and_set()) pause();
  WriteText("duo: error: ");
  const bool named = WriteMappedPath(reinterpret_cast<uintptr_t>(info->si_addr));
  WriteText(named ? ": " : "");
  WriteText(
      "a file could not be read while it was in use (SIGBUS): it was cut or replaced, its disk failed, or memory is "
      "damaged; start again when the file is complete\n");
  _exit(kExitFailed);
}

}  // namespace

// A fault in the handler itself ends the process, because SIGBUS is blocked while the handler runs.
void CatchBusErrors() {
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

// SA_RESETHAND restores the default action, so that a second signal ends the process. Without SA_RESTART a read of the
// terminal returns, so that Ctrl-C at a prompt is noticed.
void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESETHAND;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool Interrupted() { return interrupted != 0; }

void ClearInterrupt() {
  if (terminated != 0) return;
  interrupted = 0;
  CatchInterrupts();
}

}  // namespace duo::cli
