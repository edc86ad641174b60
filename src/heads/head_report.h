// Patterns for people: heat maps in the terminal and as image files, and what differs between two patterns.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "duo/head_pattern.h"
#include "duo/result.h"

namespace duo {

enum class HeatMapColor : uint8_t {
  kPlain,  // shades and markers only
  kAnsi,   // the same characters, coloured by 256-colour escape sequences
};

/// Rows = layers, columns = kv heads, shade = gate clipped to [0,1], in UTF-8. With a choice (same shape as the
/// pattern) its retrieval heads carry a marker and each row ends with their number. Ends with a legend line and a
/// newline. At most 120 columns wide for up to 100 kv heads.
std::string TerminalHeatMap(const HeadPattern& pattern, const HeadChoice* choice = nullptr,
                            HeatMapColor color = HeatMapColor::kPlain);

/// The same as an image with `title` (plain text, may be empty) above it. The suffix of `path` chooses .svg or .png.
/// Drawn by the program gnuplot, run without a shell. kInvalidArgument: another suffix. kNotFound: no gnuplot; the
/// sentence names the package. kInternal: gnuplot failed, with its words. kIo: `path` cannot be written. On every error
/// `path` stays as it was.
Status WriteHeatMap(const HeadPattern& pattern, const HeadChoice* choice, const std::string& path,
                    const std::string& title = "");

/// Distillation loss and gates over the steps of a run of `duo identify`, from its log.jsonl (docs/formats.md), as an
/// image. kCorrupt names the log's line. Else as WriteHeatMap.
Status WriteLossCurves(const std::string& log_path, const std::string& path, const std::string& title = "");

/// A head that one pattern makes a retrieval head and the other does not.
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
  std::optional<double> rank_correlation;  // Spearman's rho, ties share their mean rank; none when all gates are equal
  double sparsity = 0;                     // at which the heads below were chosen
  int n_both = 0;                          // retrieval in a and b
  int n_only_a = 0;
  int n_only_b = 0;
  std::vector<HeadDifference> differing;  // by layer, then head; n_only_a + n_only_b of them
};

/// kInvalidArgument when the shapes differ or sparsity is outside [0,1].
Result<PatternDiff> DiffPatterns(const HeadPattern& a, const HeadPattern& b, double sparsity);

}  // namespace duo
