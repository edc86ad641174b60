#include "cli/flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "base/strings.h"
#include "cli/common_options.h"
#include "cli/terminal.h"

namespace duo::cli {
namespace {

bool IsNumberStart(const std::string& text) {
  return !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == '.' || (text[0] >= '0' && text[0] <= '9'));
}

std::string Describe(const IntRange& range) {
  if (range.max == IntRange().max) return fmt::format("a whole number of at least {}", range.min);
  return fmt::format("a whole number from {} to {}", range.min, range.max);
}

std::string Describe(const RealRange& range) {
  if (range.max == RealRange().max) return fmt::format("a number of at least {:g}", range.min);
  return fmt::format("a number from {:g} to {:g}", range.min, range.max);
}

/// Reads one number of a list, where k multiplies by 1024. Nothing unless all of `word` is one number in range.
template <typename Number, typename Range>
std::optional<Number> ParseListNumber(const std::string& word, const Range& range) {
  char* end = nullptr;
  double value = std::strtod(word.c_str(), &end);
  if (*end == 'k' || *end == 'K') {
    value *= 1024;
    ++end;
  }
  const bool whole = IsNumberStart(word) && *end == '\0';
  if (!whole || !(value >= static_cast<double>(range.min) && value <= static_cast<double>(range.max))) return {};
  const auto number = static_cast<Number>(value);
  if (static_cast<double>(number) != value) return {};
  return number;
}

template <typename Number, typename Range>
std::vector<Number> ParseList(const std::string& flag, const std::string& text, const Range& range) {
  std::vector<Number> numbers;
  for (const std::string& word : SplitAtCommas(text)) {
    const std::optional<Number> number = ParseListNumber<Number>(std::string(Trim(word)), range);
    if (!number) {
      throw CLI::ValidationError(
          flag, fmt::format("\"{}\" is not {}; several are separated by commas", word, Describe(range)));
    }
    numbers.push_back(*number);
  }
  return numbers;
}

template <typename Number, typename Range>
CLI::Option* AddList(CLI::App* verb, const std::string& flag, const Range& range, NumberList<Number>* list,
                     const std::string& help) {
  list->numbers = ParseList<Number>(flag, list->text, range);
  return verb
      ->add_option_function<std::string>(
          flag,
          [=](const std::string& text) {
            *list = {text, ParseList<Number>(flag, text, range)};
          },
          help)
      ->type_name("A,B,..")
      ->default_str(list->text);
}

}  // namespace

int64_t ParseInt(const std::string& flag, const std::string& text, const IntRange& range) {
  errno = 0;
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  const bool whole = IsNumberStart(text) && *end == '\0' && errno == 0;
  if (whole && value >= range.min && value <= range.max) return value;
  throw CLI::ValidationError(flag, fmt::format("\"{}\" is not {}", text, Describe(range)));
}

double ParseReal(const std::string& flag, const std::string& text, const RealRange& range) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool whole = IsNumberStart(text) && *end == '\0' && std::isfinite(value);
  if (whole && value >= range.min && value <= range.max) return value;
  throw CLI::ValidationError(flag, fmt::format("\"{}\" is not {}", text, Describe(range)));
}

CLI::Option* AddNumbers(CLI::App* verb, const std::string& flag, const IntRange& range, NumberList<int64_t>* list,
                        const std::string& help) {
  return AddList(verb, flag, range, list, help);
}

CLI::Option* AddNumbers(CLI::App* verb, const std::string& flag, const RealRange& range, NumberList<double>* list,
                        const std::string& help) {
  return AddList(verb, flag, range, list, help);
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
  return AddParsed(verb, flag, ParseBytes, target, help)->type_name("SIZE");
}

// The new flag gets the value while the line is parsed, so that it counts as given in every later check. A value that
// is missing becomes an empty one, because CLI11's own sentence would not name a flag that the help does not show.
void AcceptOldName(CLI::App* verb, const std::string& old_name, CLI::Option* flag) {
  const auto use_new_name = [=](const std::string& text) {
    Note(fmt::format("{} is now {}; a later version will not know the old name", old_name, flag->get_name()));
    flag->add_result(text);
  };
  verb->add_option_function<std::string>(old_name, use_new_name)->expected(0, 1)->trigger_on_parse()->group("");
}

void RefuseFlags(const CLI::App& verb, const std::vector<std::string>& flags, const std::string& reason) {
  for (const std::string& flag : flags) {
    if (verb.count(flag) > 0) throw CLI::ValidationError(flag, reason);
  }
}

std::vector<std::string> SplitAtCommas(const std::string& text) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

}  // namespace duo::cli
