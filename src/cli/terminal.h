// Output for people: colour and width of the terminal, notes, the progress bar. Everything except results goes to
// stderr.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "duo/progress.h"
#include "duo/result.h"

namespace duo::cli {

bool StdinIsTerminal();
bool StdoutIsTerminal();
bool StderrIsTerminal();
/// Whether the stream is a terminal that is not "dumb", and NO_COLOR is not set (no-color.org).
bool StdoutHasColour();
bool StderrHasColour();
/// Columns of the terminal that stdout is; 80 when stdout is not a terminal.
int TerminalColumns();

/// Writes text to stderr. A stderr that is closed or full only loses the text.
void WriteErr(std::string_view text);

/// Writes "duo: <sentence>" to stderr as one line.
void Note(std::string_view sentence);
/// Writes "duo: error: <sentence>" to stderr as one line.
void PrintError(std::string_view sentence);

/// Writes to stdout and flushes it. kIo when nobody reads or the disk is full.
Status WriteOut(std::string_view text);

/// "250 ms", "1.2 s", "3 min 20 s", "2 h 05 min".
std::string FormatDuration(double seconds);
/// "16384" -> "16,384".
std::string FormatCount(int64_t n);

/// A line on stderr that is redrawn: share done, units/s, KV memory, time left. It is drawn at most ten times a second,
/// and never for work that ends within half a second.
class ProgressBar {
 public:
  /// When to draw: kAuto only when stderr is a terminal, kOff never. If stderr is not a terminal, kOn prints plain
  /// lines: one every five seconds and one at the end.
  enum class Show : uint8_t { kAuto, kOn, kOff };
  /// A `label` ("full attention") comes before the text of the line.
  explicit ProgressBar(Show show, std::string label = "");
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Returns a callback that draws, and stops the work on Ctrl-C (signals.h). It is valid while the bar lives.
  ProgressCallback Callback();
  /// Sets the label of all later draws.
  void SetLabel(std::string label) { label_ = std::move(label); }
  /// Removes the line from the terminal. Idempotent; the destructor does it too.
  void Finish();

 private:
  void Draw(const Progress& progress);
  void PrintPlainLine(const Progress& progress);
  std::string Describe(const Progress& progress) const;

  bool on_terminal_;
  bool plain_lines_;
  bool drawn_ = false;
  double last_seconds_ = 0;
  std::string label_;
};

/// kOn for --progress, kAuto otherwise.
inline ProgressBar::Show ShowProgress(bool progress_flag) {
  return progress_flag ? ProgressBar::Show::kOn : ProgressBar::Show::kAuto;
}

}  // namespace duo::cli
