#include "cli/progress_bar.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/memory_info.h"
#include "cli/signals.h"
#include "cli/terminal.h"

namespace duo::cli {
namespace {

constexpr double kQuietSeconds = 0.5;
constexpr double kRedrawSeconds = 0.1;
constexpr double kPlainLineSeconds = 5;

}  // namespace

ProgressBar::ProgressBar(Show show, std::string label)
    : on_terminal_(StderrIsTerminal()),
      plain_lines_(show == Show::kAlways && !StderrIsTerminal()),
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
  const int columns = StderrColumns() - 1;
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
