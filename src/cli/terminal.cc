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
#include <utility>

#include "base/memory_info.h"
#include "cli/signals.h"

namespace duo::cli {
namespace {

constexpr double kQuietSeconds = 0.5;
constexpr double kRedrawSeconds = 0.1;
constexpr double kPlainLineSeconds = 5;

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
int TerminalColumns() { return ColumnsOf(STDOUT_FILENO); }

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
  return Status(StatusCode::kIo, fmt::format("standard output cannot be written: {}", std::strerror(reason)));
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

ProgressBar::ProgressBar(Show show, std::string label)
    : on_terminal_(show != Show::kOff && StderrIsTerminal()),
      plain_lines_(show == Show::kOn && !StderrIsTerminal()),
      label_(std::move(label)) {}

ProgressBar::~ProgressBar() { Finish(); }

ProgressCallback ProgressBar::Callback() {
  return [this](const Progress& progress) {
    if (on_terminal_) Draw(progress);
    if (plain_lines_) PrintPlainLine(progress);
    return !Interrupted();
  };
}

void ProgressBar::Finish() {
  if (drawn_) WriteErr("\r\x1b[K");
  drawn_ = false;
  last_seconds_ = 0;
}

std::string ProgressBar::Describe(const Progress& progress) const {
  const double rate = progress.seconds > 0 ? static_cast<double>(progress.done) / progress.seconds : 0;
  std::string line =
      fmt::format("{}{}{}  {}", label_, label_.empty() ? "" : ": ", progress.stage, FormatCount(progress.done));
  if (progress.total > 0) line += fmt::format("/{}", FormatCount(progress.total));
  line += fmt::format(" {}  {} {}/s", progress.unit, FormatCount(static_cast<int64_t>(rate)), progress.unit);
  if (progress.memory_bytes > 0) line += fmt::format("  KV {}", FormatBytes(progress.memory_bytes));
  if (progress.total > 0 && rate > 0) {
    line += fmt::format("  {} left", FormatDuration(static_cast<double>(progress.total - progress.done) / rate));
  }
  return line;
}

void ProgressBar::Draw(const Progress& progress) {
  const bool last = progress.total > 0 && progress.done >= progress.total;
  if (progress.seconds < kQuietSeconds || (progress.seconds - last_seconds_ < kRedrawSeconds && !last)) return;
  last_seconds_ = progress.seconds;
  drawn_ = true;
  const std::string text = Describe(progress);
  const int columns = ColumnsOf(STDERR_FILENO) - 1;
  const int bar = std::min(30, columns - static_cast<int>(text.size()) - 4);
  std::string line;
  if (progress.total > 0 && bar >= 8) {
    const auto full = static_cast<int>(static_cast<double>(bar) * static_cast<double>(progress.done) /
                                       static_cast<double>(progress.total));
    line = fmt::format("[{:=<{}}{: <{}}]  ", "", full, "", bar - full);
  }
  line += text;
  WriteErr(fmt::format("\r{}\x1b[K", line.substr(0, std::max(columns, 1))));
}

void ProgressBar::PrintPlainLine(const Progress& progress) {
  const bool last = progress.total > 0 && progress.done >= progress.total;
  if (progress.seconds - last_seconds_ < kPlainLineSeconds && !last) return;
  last_seconds_ = progress.seconds;
  Note(Describe(progress));
}

}  // namespace duo::cli
