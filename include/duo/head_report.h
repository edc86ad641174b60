// Shows patterns to people: heat maps in the terminal and as image files, and the differences between two patterns.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "duo/head_pattern.h"
#include "duo/result.h"

namespace duo {

enum class HeatMapColor : uint8_t {
  kPlain,  // shades and markers only
  kAnsi,   // the same characters with 256-colour escape sequences
};

/// Returns a heat map in UTF-8: rows are layers, columns are kv heads, and the shade is the gate clipped to [0,1]. With
/// a choice, which must have the pattern's shape, each retrieval head has a marker and each row ends with their number.
/// The last line is a legend. At most 120 columns wide for up to 100 kv heads.
std::string TerminalHeatMap(const HeadPattern& pattern, const HeadChoice* choice = nullptr,
                            HeatMapColor color = HeatMapColor::kPlain);

/// Writes the same heat map as an image with `title` (plain text, may be empty) above it. The suffix of `path` selects
/// .svg or .png. The program gnuplot draws the image; it is run without a shell. Returns kInvalidArgument for another
/// suffix. Returns kNotFound when gnuplot is missing; the error names its package. Returns kInternal when gnuplot
/// fails; the error quotes it. Returns kIo when `path` cannot be written. On every error `path` stays unchanged.
Status WriteHeatMap(const HeadPattern& pattern, const HeadChoice* choice, const std::string& path,
                    const std::string& title = "");

/// Draws the distillation loss and the gates over the steps of a `duo identify` run as an image, from its log.jsonl
/// (docs/formats.md). kCorrupt names the line of the log. Other errors as WriteHeatMap.
Status WriteLossCurves(const std::string& log_path, const std::string& path, const std::string& title = "");

/// A head that is a retrieval head in one pattern only.
struct HeadDifference {
  int layer = 0;
  int kv_head = 0;
  double gate_a = 0;  // as stored, not clipped
  double gate_b = 0;
  bool retrieval_in_a = false;  // retrieval_in_b is its opposite
};

/// All statistics are over gates clipped to [0,1].
struct PatternDiff {
  double mean_abs_difference = 0;
  double max_abs_difference = 0;
  std::optional<double> rank_correlation;  // Spearman's rho; ties share the mean rank; none if all gates are equal
  double sparsity = 0;                     // the sparsity at which the heads below were chosen
  int n_both = 0;                          // retrieval heads in both a and b
  int n_only_a = 0;
  int n_only_b = 0;
  std::vector<HeadDifference> differing;  // by layer, then head; n_only_a + n_only_b of them
};

/// kInvalidArgument when the shapes differ or sparsity is outside [0,1].
Result<PatternDiff> DiffPatterns(const HeadPattern& a, const HeadPattern& b, double sparsity);

}  // namespace duo
