// Flags whose bad values are sentences that name the flag, the value and what was expected.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace duo::cli {

/// Both ends are allowed.
struct IntRange {
  int64_t min = 0;
  int64_t max = std::numeric_limits<int64_t>::max();
};
struct RealRange {
  double min = 0;
  double max = std::numeric_limits<double>::max();
};

/// The value of `text`; throws CLI::ValidationError with a sentence for anything that is not wholly a number in range
/// (NaN and infinities never are).
int64_t ParseInt(const std::string& flag, const std::string& text, const IntRange& range);
double ParseReal(const std::string& flag, const std::string& text, const RealRange& range);

/// Adds `flag` (as shown in its help: `label`, for example "N") that takes one integer. *target may be any integer type
/// or an optional of one.
template <typename T>
CLI::Option* AddInt(CLI::App* verb, const std::string& flag, const IntRange& range, T* target,
                    const std::string& help) {
  return verb
      ->add_option_function<std::string>(
          flag, [=](const std::string& text) { *target = static_cast<T>(ParseInt(flag, text, range)); }, help)
      ->type_name("N");
}

template <typename T>
CLI::Option* AddReal(CLI::App* verb, const std::string& flag, const RealRange& range, T* target,
                     const std::string& help) {
  return verb
      ->add_option_function<std::string>(
          flag, [=](const std::string& text) { *target = ParseReal(flag, text, range); }, help)
      ->type_name("F");
}

/// One of the names on the left sets *target to the value on the right. Throws for names in `refused` with the sentence
/// beside them (values of the contract that this version lacks).
template <typename T, typename Value>
CLI::Option* AddChoice(CLI::App* verb, const std::string& flag,
                       const std::vector<std::pair<std::string, Value>>& choices,
                       const std::vector<std::pair<std::string, std::string>>& refused, T* target,
                       const std::string& help) {
  std::string names;
  for (const auto& choice : choices) names += (names.empty() ? "" : "|") + choice.first;
  return verb
      ->add_option_function<std::string>(
          flag,
          [=](const std::string& text) {
            for (const auto& choice : choices) {
              if (choice.first == text) {
                *target = choice.second;
                return;
              }
            }
            for (const auto& choice : refused) {
              if (choice.first == text) throw CLI::ValidationError(flag, text + " " + choice.second);
            }
            throw CLI::ValidationError(flag, "\"" + text + "\" is none of " + names);
          },
          help)
      ->type_name(names);
}

/// A text; an empty one is an error when `what` says what is missing ("a directory").
CLI::Option* AddText(CLI::App* verb, const std::string& flag, std::string* target, const std::string& what,
                     const std::string& help);

/// May be given several times, each time with one text, which is taken as it is.
CLI::Option* AddTexts(CLI::App* verb, const std::string& flag, std::vector<std::string>* target,
                      const std::string& help);

/// A size as ParseBytes (common_options.h) reads it.
CLI::Option* AddBytes(CLI::App* verb, const std::string& flag, uint64_t* target, const std::string& help);

}  // namespace duo::cli
