// Parses any text as full_attention_heads.tsv, and the part after a NUL byte as config.json. Heads can be chosen from
// every accepted pattern. A pattern that is written and read again is the same bit for bit.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "duo/head_pattern.h"
#include "duo/head_report.h"
#include "heads/pattern_format.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t nul = text.find('\0');
  const std::string_view config =
      nul == std::string_view::npos ? std::string_view(R"({"sink_size":4,"recent_size":16})") : text.substr(nul + 1);
  const auto pattern = duo::ParseHeadPattern(text.substr(0, nul), config, "fuzz");
  if (!pattern.ok()) return 0;
  const double sparsity = static_cast<double>(size % 101) / 100.0;
  const auto choice = duo::ChooseBySparsity(*pattern, sparsity);
  DUO_CHECK(choice.ok() && choice->retrieval.size() == pattern->gates.size(), "a valid pattern must allow a choice");
  DUO_CHECK(duo::DiffPatterns(*pattern, duo::ToPattern(*choice, *pattern), sparsity)->differing.empty(),
            "a chosen pattern must choose the same heads");
  DUO_CHECK(!duo::TerminalHeatMap(*pattern, &*choice).empty(), "the heat map must not be empty");
  const auto config_again = duo::FormatPatternConfig(*pattern);
  DUO_CHECK(config_again.ok(), "the config of a valid pattern must be writable");
  const auto again = duo::ParseHeadPattern(duo::FormatGates(*pattern), *config_again, "again");
  DUO_CHECK(again.ok() && again->n_kv_heads == pattern->n_kv_heads && again->sink == pattern->sink &&
                again->recent == pattern->recent && again->gates.size() == pattern->gates.size(),
            "a written pattern must be readable");
  DUO_CHECK(std::memcmp(again->gates.data(), pattern->gates.data(), pattern->gates.size() * sizeof(double)) == 0,
            "gates must not change on the way");
  return 0;
}
