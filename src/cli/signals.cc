#include "cli/signals.h"

#include <csignal>

namespace duo::cli {
namespace {

volatile std::sig_atomic_t interrupted = 0;

volatile std::sig_atomic_t terminated = 0;

void OnSignal(int signal) {
  if (signal == SIGTERM) terminated = 1;
  interrupted = 1;
}

}  // namespace

// SA_RESETHAND: the second signal meets the default action, which ends the process. No SA_RESTART: a read of the
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
