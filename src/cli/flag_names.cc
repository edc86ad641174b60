#include "cli/flag_names.h"

#include <CLI/App.hpp>
#include <algorithm>
#include <string_view>
#include <vector>

namespace duo::cli {
namespace {

/// An option whose flags do not follow from its name. The flags are as a user would type them, the option's own first.
struct OptionFlags {
  std::string_view option;
  std::vector<std::string_view> flags;
};

const std::vector<OptionFlags>& UnlikeNames() {
  static const std::vector<OptionFlags> options = {
      {"chunk", {"--chunk", "--sink", "--recent"}},  // these decide the size of a session's fixed parts
      {"device", {"--device cpu"}},
      {"memory_bytes", {"--memory", "--chunk", "--weights int8"}},
      {"memory_limit", {"--sparsity", "--kv-type"}},
      {"reg_weight", {"--reg"}},
      {"weights", {"--weights"}},
  };
  return options;
}

/// Whether the verb has the flag, and not as an old name, which the help does not show.
bool Has(const CLI::App& verb, std::string_view flag) {
  const CLI::Option* option = verb.get_option_no_throw(std::string(flag.substr(0, flag.find(' '))));
  return option != nullptr && !option->get_group().empty();
}

std::vector<std::string> FlagsOf(std::string_view option, const CLI::App& verb) {
  std::vector<std::string> flags;
  for (const OptionFlags& unlike : UnlikeNames()) {
    if (unlike.option != option) continue;
    for (const std::string_view flag : unlike.flags) {
      if (Has(verb, flag)) flags.emplace_back(flag);
    }
    return flags;
  }
  // max_context becomes --max-context. The flag of a count may be without its "n_": n_threads becomes --threads.
  for (const size_t n_dropped : {size_t{0}, size_t{2}}) {
    if (n_dropped > 0 && !option.starts_with("n_")) break;
    std::string flag = "--" + std::string(option.substr(n_dropped));
    std::replace(flag.begin(), flag.end(), '_', '-');
    if (Has(verb, flag)) return {flag};
  }
  return flags;
}

/// The innermost verb that was given: `niah` of `duo eval niah`.
const CLI::App& Innermost(const CLI::App& app) {
  const auto verbs = app.get_subcommands();
  return verbs.empty() ? app : Innermost(*verbs.front());
}

}  // namespace

std::string SentenceWithFlags(const Status& status, const CLI::App& verb) {
  if (status.subject().empty()) return status.message();
  const std::vector<std::string> flags = FlagsOf(status.subject(), Innermost(verb));
  if (flags.empty()) return status.message();
  const bool another_would_help =
      status.code() == StatusCode::kResourceExhausted || status.code() == StatusCode::kUnsupported;
  if (!another_would_help) return flags.front() + ": " + status.message();
  std::string list;
  for (const std::string& flag : flags) list += (list.empty() ? "" : ", ") + flag;
  return status.message() + " (" + list + ")";
}

}  // namespace duo::cli
