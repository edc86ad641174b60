// What people see: colour and width of the terminal, notes, the progress bar. Everything but results goes to stderr.
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
/// A terminal that is not "dumb", and NO_COLOR is not set (no-color.org).
bool StdoutHasColour();
bool StderrHasColour();
/// Columns of the terminal behind stdout; 80 when there is none.
int TerminalColumns();

/// Text to stderr. A stderr that is closed or full loses the text and nothing else.
void WriteErr(std::string_view text);

/// "duo: <sentence>" on stderr, one line.
void Note(std::string_view sentence);
/// "duo: error: <sentence>" on stderr.
void PrintError(std::string_view sentence);

/// Writes to stdout at once, unbuffered from the caller's point of view. kIo when nobody reads or the disk is full.
Status WriteOut(std::string_view text);

/// "1.25 s", "3 min 20 s", "2 h 05 min".
std::string FormatDuration(double seconds);
/// "16384" -> "16,384".
std::string FormatCount(int64_t n);

/// A line on stderr that is redrawn: share done, units/s, KV memory, time left. Draws at most ten times a second, and
/// nothing at all for work that ends within half a second.
class ProgressBar {
 public:
  /// Whether anything is drawn: kAuto = only when stderr is a terminal. kOn without a terminal prints plain lines, one
  /// every five seconds and one at the end.
  enum class Show : uint8_t { kAuto, kOn, kOff };
  /// `label` is put in front when there is one ("full attention").
  explicit ProgressBar(Show show, std::string label = "");
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Draws, and stops the work on Ctrl-C (signals.h). Valid while the bar lives.
  ProgressCallback Callback();
  /// What is put in front from now on.
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

/// Removes nothing, shows nothing before the first token: kOn for --progress, kAuto otherwise.
inline ProgressBar::Show ShowProgress(bool progress_flag) {
  return progress_flag ? ProgressBar::Show::kOn : ProgressBar::Show::kAuto;
}

}  // namespace duo::cli
