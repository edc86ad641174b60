// Pictures of evaluation results, made from the JSON that `duo eval` writes (docs/formats.md).
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "duo/result.h"

namespace duo {

/// A script for heads/gnuplot.h, and the size of its image.
struct Chart {
  int width = 0;  // pixels
  int height = 0;
  std::string script;
};

/// The keys of an object of modes, full attention first.
std::vector<std::string> ModeNames(const Json& modes);

/// Makes the picture of one result. niah: a heat map per mode. perplexity: the divergence by position. certify: the
/// trade-off curve. ruler and longbench: bars per task. `where` (usually the file) begins messages. kCorrupt when a
/// member is missing or has another type; kInvalidArgument for a kind of result without a picture.
Result<Chart> ChartOf(const Json& result, const std::string& where);

/// Writes the picture to `path` (.svg or .png). Errors also as WriteImage.
Status WriteChart(const Json& result, const std::string& path);

}  // namespace duo
