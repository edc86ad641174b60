#include "cli/flags.h"

#include <fmt/format.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "cli/common_options.h"

namespace duo::cli {
namespace {

bool LooksLikeNumberStart(const std::string& text) {
  return !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == '.' || (text[0] >= '0' && text[0] <= '9'));
}

std::string RangeText(const char* kind, bool has_max, const std::string& min, const std::string& max) {
  return has_max ? fmt::format("{} from {} to {}", kind, min, max) : fmt::format("{} of at least {}", kind, min);
}

}  // namespace

int64_t ParseInt(const std::string& flag, const std::string& text, const IntRange& range) {
  errno = 0;
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  const bool whole = LooksLikeNumberStart(text) && *end == '\0' && errno == 0;
  if (!whole || value < range.min || value > range.max) {
    throw CLI::ValidationError(flag,
                               fmt::format("\"{}\" is not {}", text,
                                           RangeText("a whole number", range.max != std::numeric_limits<int64_t>::max(),
                                                     std::to_string(range.min), std::to_string(range.max))));
  }
  return value;
}

double ParseReal(const std::string& flag, const std::string& text, const RealRange& range) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool whole = LooksLikeNumberStart(text) && *end == '\0' && std::isfinite(value);
  if (!whole || value < range.min || value > range.max) {
    throw CLI::ValidationError(flag,
                               fmt::format("\"{}\" is not {}", text,
                                           RangeText("a number", range.max != std::numeric_limits<double>::max(),
                                                     fmt::format("{:g}", range.min), fmt::format("{:g}", range.max))));
  }
  return value;
}

CLI::Option* AddText(CLI::App* verb, const std::string& flag, std::string* target, const std::string& what,
                     const std::string& help) {
  return verb->add_option_function<std::string>(
      flag,
      [=](const std::string& text) {
        if (text.empty() && !what.empty()) throw CLI::ValidationError(flag, "expected " + what + ", got nothing");
        *target = text;
      },
      help);
}

CLI::Option* AddTexts(CLI::App* verb, const std::string& flag, std::vector<std::string>* target,
                      const std::string& help) {
  return verb
      ->add_option_function<std::vector<std::string>>(
          flag, [=](const std::vector<std::string>& texts) { *target = texts; }, help)
      ->allow_extra_args(false);
}

CLI::Option* AddBytes(CLI::App* verb, const std::string& flag, uint64_t* target, const std::string& help) {
  return verb
      ->add_option_function<std::string>(
          flag,
          [=](const std::string& text) {
            const Result<uint64_t> bytes = ParseBytes(text);
            if (!bytes.ok()) throw CLI::ValidationError(flag, bytes.status().message());
            *target = *bytes;
          },
          help)
      ->type_name("SIZE");
}

}  // namespace duo::cli
