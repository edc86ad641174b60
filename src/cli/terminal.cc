#include "cli/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace duo::cli {
namespace {

bool HasColour(int fd) {
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return isatty(fd) != 0 && (no_color == nullptr || *no_color == '\0') && term != nullptr &&
         std::strcmp(term, "dumb") != 0;
}

int ColumnsOf(int fd) {
  winsize size = {};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

bool StdinIsTerminal() { return isatty(STDIN_FILENO) != 0; }
bool StdoutIsTerminal() { return isatty(STDOUT_FILENO) != 0; }
bool StderrIsTerminal() { return isatty(STDERR_FILENO) != 0; }
bool StdoutHasColour() { return HasColour(STDOUT_FILENO); }
bool StderrHasColour() { return HasColour(STDERR_FILENO); }
int StdoutColumns() { return ColumnsOf(STDOUT_FILENO); }
int StderrColumns() { return ColumnsOf(STDERR_FILENO); }

void WriteErr(std::string_view text) { (void)std::fwrite(text.data(), 1, text.size(), stderr); }

void Note(std::string_view sentence) { WriteErr(fmt::format("duo: {}\n", sentence)); }

void PrintError(std::string_view sentence) {
  std::fflush(stdout);
  WriteErr(fmt::format("{}duo: error:{} {}\n", StderrHasColour() ? "\x1b[31m" : "", StderrHasColour() ? "\x1b[0m" : "",
                       sentence));
}

Status WriteOut(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (written) return OkStatus();
  const int reason = errno;
  std::clearerr(stdout);
  return IoError("standard output cannot be written: {}", std::strerror(reason));
}

std::string FormatDuration(double seconds) {
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const int64_t whole = std::llround(std::min(seconds, 1e15));
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string FormatCount(int64_t n) {
  std::string digits = std::to_string(n);
  const size_t first_digit = n < 0 ? 1 : 0;
  for (size_t at = digits.size(); at > first_digit + 3;) digits.insert(at -= 3, 1, ',');
  return digits;
}

}  // namespace duo::cli
