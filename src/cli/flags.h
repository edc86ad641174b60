// Functions that add flags to a verb. A bad value gives a sentence that names the flag, the value and what was
// expected.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace duo::cli {

/// A range that includes both ends.
struct IntRange {
  int64_t min = 0;
  int64_t max = std::numeric_limits<int64_t>::max();
};
struct RealRange {
  double min = 0;
  double max = std::numeric_limits<double>::max();
};

/// Returns the number in `text`. Throws CLI::ValidationError with a sentence unless all of `text` is one number in
/// range. NaN and infinities are never in range.
int64_t ParseInt(const std::string& flag, const std::string& text, const IntRange& range);
double ParseReal(const std::string& flag, const std::string& text, const RealRange& range);

/// Adds `flag`, which takes one integer, shown as N in the help. *target may be any integer type or an optional of one.
template <typename T>
CLI::Option* AddInt(CLI::App* verb, const std::string& flag, const IntRange& range, T* target,
                    const std::string& help) {
  return verb
      ->add_option_function<std::string>(
          flag, [=](const std::string& text) { *target = static_cast<T>(ParseInt(flag, text, range)); }, help)
      ->type_name("N");
}

/// Adds `flag`, which takes one real number, shown as F in the help.
template <typename T>
CLI::Option* AddReal(CLI::App* verb, const std::string& flag, const RealRange& range, T* target,
                     const std::string& help) {
  return verb
      ->add_option_function<std::string>(
          flag, [=](const std::string& text) { *target = ParseReal(flag, text, range); }, help)
      ->type_name("F");
}

/// Adds `flag`, which takes one of the names in `choices` and sets *target to the value beside it. A name in `refused`
/// is a value of the contract that this version lacks: it throws with the sentence beside it.
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
            throw CLI::ValidationError(flag, "\"" + text + "\" is not one of " + names);
          },
          help)
      ->type_name(names);
}

/// Adds `flag`, which takes a text. `what` names the expected value ("a directory"). An empty text is an error, unless
/// `what` is empty too.
CLI::Option* AddText(CLI::App* verb, const std::string& flag, std::string* target, const std::string& what,
                     const std::string& help);

/// Adds `flag`, which may be given several times, each time with one text. The text is not split.
CLI::Option* AddTexts(CLI::App* verb, const std::string& flag, std::vector<std::string>* target,
                      const std::string& help);

/// Adds `flag`, which takes a size as ParseBytes (common_options.h) reads it.
CLI::Option* AddBytes(CLI::App* verb, const std::string& flag, uint64_t* target, const std::string& help);

}  // namespace duo::cli
