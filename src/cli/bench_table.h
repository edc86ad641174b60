// Results of `duo bench`, printed as Markdown, CSV or JSON.
#pragma once

#include <string>

#include "base/json.h"
#include "eval/bench.h"

namespace duo::cli {

/// The whole report. Every row has the keys of BenchRow and tokens_per_s.
Json BenchJson(const BenchReport& report);
std::string BenchCsv(const BenchReport& report);
std::string BenchMarkdown(const BenchReport& report);

}  // namespace duo::cli
