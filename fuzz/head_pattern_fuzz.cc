// Any text as full_attention_heads.tsv, and what follows a NUL byte as config.json: an accepted pattern can be chosen
// from, and written and read again it is the same bit for bit.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "duo/head_pattern.h"
#include "heads/head_report.h"
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
  DUO_CHECK(choice.ok() && choice->retrieval.size() == pattern->gates.size(), "no choice from a valid pattern");
  DUO_CHECK(duo::DiffPatterns(*pattern, duo::ToPattern(*choice, *pattern), sparsity)->differing.empty(),
            "a chosen pattern must choose the same heads");
  DUO_CHECK(!duo::TerminalHeatMap(*pattern, &*choice).empty(), "heat map");
  const auto config_again = duo::FormatPatternConfig(*pattern);
  DUO_CHECK(config_again.ok(), "the config of a valid pattern cannot be written");
  const auto again = duo::ParseHeadPattern(duo::FormatGates(*pattern), *config_again, "again");
  DUO_CHECK(again.ok() && again->n_kv_heads == pattern->n_kv_heads && again->sink == pattern->sink &&
                again->recent == pattern->recent && again->gates.size() == pattern->gates.size(),
            "a written pattern cannot be read");
  DUO_CHECK(std::memcmp(again->gates.data(), pattern->gates.data(), pattern->gates.size() * sizeof(double)) == 0,
            "gates changed on the way");
  return 0;
}
