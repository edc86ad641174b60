// Functions that add flags to a verb. A bad value gives a sentence that names the flag, the value and what was
// expected.
#pragma once

#include <CLI/App.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "duo/result.h"

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

/// Numbers separated by commas.
template <typename Number>
struct NumberList {
  std::string text;  // as typed, or the default
  std::vector<Number> numbers;
};

/// Adds `flag`, which takes numbers separated by commas, shown as A,B,.. in the help. k multiplies by 1024: "512,2k".
/// The default is the text that *list has when this is called.
CLI::Option* AddNumbers(CLI::App* verb, const std::string& flag, const IntRange& range, NumberList<int64_t>* list,
                        const std::string& help);
CLI::Option* AddNumbers(CLI::App* verb, const std::string& flag, const RealRange& range, NumberList<double>* list,
                        const std::string& help);

/// The names that a flag takes, each with its value.
template <typename Value>
using Choices = std::vector<std::pair<std::string, Value>>;

/// Adds `flag`, which takes one of the names in `choices` and sets *target to the value beside it.
template <typename T, typename Value>
CLI::Option* AddChoice(CLI::App* verb, const std::string& flag, const Choices<Value>& choices, T* target,
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

/// Adds `flag`, which takes a text that `parse` turns into the value or an error.
template <typename T>
CLI::Option* AddParsed(CLI::App* verb, const std::string& flag, Result<T> (*parse)(const std::string&), T* target,
                       const std::string& help) {
  return verb->add_option_function<std::string>(
      flag,
      [=](const std::string& text) {
        Result<T> value = parse(text);
        if (!value.ok()) throw CLI::ValidationError(flag, value.status().message());
        *target = *std::move(value);
      },
      help);
}

/// Adds `flag`, which takes a size as ParseBytes (common_options.h) reads it.
CLI::Option* AddBytes(CLI::App* verb, const std::string& flag, uint64_t* target, const std::string& help);

/// Lets `flag` be given by the name that it had in an earlier version. The help does not show the old name, and a note
/// on stderr names the new one.
void AcceptOldName(CLI::App* verb, const std::string& old_name, CLI::Option* flag);

/// Throws CLI::ValidationError, "FLAG: reason", for the first of `flags` that was given.
void RefuseFlags(const CLI::App& verb, const std::vector<std::string>& flags, const std::string& reason);

/// The texts between the commas of `text`.
std::vector<std::string> SplitAtCommas(const std::string& text);

}  // namespace duo::cli
