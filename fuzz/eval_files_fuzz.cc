// Parses task files and certificates that `duo eval` reads. The first byte selects the parser.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "eval/certificate.h"
#include "eval/charts.h"
#include "eval/longbench.h"
#include "eval/report.h"
#include "eval/ruler.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0: (void)duo::ParseRuler(text, "validation.jsonl"); break;
    case 1: {
      const auto samples = duo::ParseLongBench(text, "trec", "trec.jsonl");
      if (!samples.ok()) break;
      for (const duo::LongBenchSample& sample : *samples) {
        const double score = duo::LongBenchScore(sample, sample.answers[0]);
        if (!(score >= 0 && score <= 1)) __builtin_trap();
      }
      break;
    }
    case 2: (void)duo::ParseLongBench(text, "longbench_v2", "data.json"); break;
    case 3: {
      const auto json = duo::ParseJson(text, "result.json");
      // Pictures run a program, so only results without pictures go through MakeReport.
      if (json.ok()) (void)duo::ChartOf(*json, "result.json");
      if (json.ok() && json->is_object() && json->contains("ceilings")) (void)duo::MakeReport({{"r", *json}}, "t");
      break;
    }
    default: {
      const auto json = duo::ParseJson(text, "certificate.json");
      if (json.ok()) (void)duo::CertificateOf(*json, "certificate.json");
    }
  }
  return 0;
}
