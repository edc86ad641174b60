#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/strings.h"
#include "duo/head_report.h"

namespace duo {
namespace {

constexpr std::array<const char*, 4> kShades = {"░", "▒", "▓", "█"};
constexpr std::array<int, 4> kAnsiShades = {24, 31, 38, 51};  // dark to light blue of the 256-colour cube
constexpr int kAnsiMarker = 208;                              // orange
constexpr int kLabelColumns = 10;                             // "layer 123 "

// Columns per head: two shades and the marker, one shade and the marker, or a single character. A row of 32, 50 or 100
// heads thus stays within 120 columns.
int CellColumns(int n_kv_heads) { return n_kv_heads <= 32 ? 3 : n_kv_heads <= 50 ? 2 : 1; }

size_t Level(double gate) { return std::min(std::clamp(gate, 0.0, 1.0) * 4.0, 3.0); }

std::string Paint(const std::string& text, int ansi_color, HeatMapColor color) {
  return color == HeatMapColor::kAnsi ? fmt::format("\x1b[38;5;{}m{}\x1b[0m", ansi_color, text) : text;
}

std::string Cell(double gate, bool marked, int columns, HeatMapColor color) {
  const size_t level = Level(gate);
  if (columns == 1 && marked) return Paint("*", kAnsiMarker, color);
  std::string shade = kShades[level];
  if (columns == 3) shade += kShades[level];
  std::string cell = Paint(shade, kAnsiShades[level], color);
  if (columns > 1) cell += marked ? Paint("*", kAnsiMarker, color) : " ";
  return cell;
}

// Numbers every few heads. Each number begins above its head's first character.
std::string HeadNumbers(int n_kv_heads, int columns) {
  const int step = columns == 3 ? 2 : columns == 2 ? 4 : 8;
  std::string line = fmt::format("{:<{}}", "kv head", kLabelColumns);
  for (int head = 0; head < n_kv_heads; head += step) line += fmt::format("{:<{}}", head, step * columns);
  return std::string(TrimEnd(line)) + "\n";
}

std::string Legend(const HeadChoice* choice, HeatMapColor color) {
  std::string line = "gate  ";
  for (size_t level = 0; level < kShades.size(); ++level) {
    line +=
        fmt::format("{} {}..{}  ", Paint(kShades[level], kAnsiShades[level], color), 0.25 * level, 0.25 * (level + 1));
  }
  if (choice != nullptr) {
    line += fmt::format(" {} retrieval head: {} of {}, sparsity {:.3f}", Paint("*", kAnsiMarker, color),
                        choice->n_retrieval(), choice->retrieval.size(), choice->sparsity());
  }
  return std::string(TrimEnd(line)) + "\n";
}

}  // namespace

std::string TerminalHeatMap(const HeadPattern& pattern, const HeadChoice* choice, HeatMapColor color) {
  DUO_CHECK(choice == nullptr || (choice->n_layers == pattern.n_layers && choice->n_kv_heads == pattern.n_kv_heads),
            "the choice must have the pattern's shape");
  const int columns = CellColumns(pattern.n_kv_heads);
  std::string text = HeadNumbers(pattern.n_kv_heads, columns);
  for (int layer = 0; layer < pattern.n_layers; ++layer) {
    text += fmt::format("layer {:>3} ", layer);
    for (int head = 0; head < pattern.n_kv_heads; ++head) {
      const bool marked = choice != nullptr && choice->is_retrieval(layer, head);
      text += Cell(pattern.gate(layer, head), marked, columns, color);
    }
    if (choice != nullptr) text += fmt::format(" {}/{}", choice->n_retrieval_in(layer), pattern.n_kv_heads);
    text.resize(TrimEnd(text, " ").size());
    text += "\n";
  }
  return text + Legend(choice, color);
}

}  // namespace duo
