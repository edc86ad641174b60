// The progress of long work, as one line on stderr. All verbs draw it here.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "duo/progress.h"

namespace duo::cli {

/// A line on stderr that is redrawn: share done, units/s, KV memory, time left. It is drawn at most ten times a second,
/// and never for work that ends within half a second.
class ProgressBar {
 public:
  /// When to draw: kAuto only when stderr is a terminal. If stderr is not a terminal, kAlways prints plain lines: one
  /// every five seconds and one at the end.
  enum class Show : uint8_t { kAuto, kAlways };
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

}  // namespace duo::cli
