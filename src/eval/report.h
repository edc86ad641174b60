// One self-contained HTML page from results of `duo eval` and `duo bench`.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "duo/result.h"

namespace duo {

struct ReportInput {
  std::string path;  // the source of the result; begins messages
  Json result;
};

/// Whether the value is a result that a report can show.
bool IsReportable(const Json& result);

/// Makes a page without scripts or outside requests. Each result is a section: its table, its picture as inline SVG,
/// what it was measured on, and the command that made it. If gnuplot is missing, a sentence replaces the picture. All
/// text is escaped. kCorrupt names path and member of a result that lacks what its kind must have. kInvalidArgument for
/// a value that is not a result.
Result<std::string> MakeReport(const std::vector<ReportInput>& inputs, const std::string& title);

}  // namespace duo
