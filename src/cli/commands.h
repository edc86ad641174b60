// The verbs of `duo`. One file cmd_<verb>.cc each; main.cc parses, runs the verb that was named and maps its Status to
// the exit code.
#pragma once

#include <functional>
#include <string>

#include "duo/result.h"

namespace CLI {
class App;
}

namespace duo::cli {

/// Exit codes: a stable contract, scripts depend on it.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;  // every error but the next
inline constexpr int kExitUsage = 2;   // kInvalidArgument: unknown flags, bad values, contradictions

/// What main runs once parsing succeeded. A verb sets it from its CLI11 callback, so nothing runs while parsing:
///   verb->callback([options, run] { *run = [options] { return RunPlan(*options); }; });
/// with `options` a shared_ptr, because CLI11 and the closure both need it. An error is printed by main as
/// "duo: error: <sentence>"; the verb itself prints no errors.
using VerbFunction = std::function<Status()>;

/// Each adds one subcommand with its flags, one-line description and an example in its footer.
void AddDemo(CLI::App* app, VerbFunction* run);
void AddGenerate(CLI::App* app, VerbFunction* run);
void AddChat(CLI::App* app, VerbFunction* run);
void AddServe(CLI::App* app, VerbFunction* run);
void AddEval(CLI::App* app, VerbFunction* run);
void AddIdentify(CLI::App* app, VerbFunction* run);
void AddLogits(CLI::App* app, VerbFunction* run);
void AddPattern(CLI::App* app, VerbFunction* run);
void AddReport(CLI::App* app, VerbFunction* run);
void AddPlan(CLI::App* app, VerbFunction* run);
void AddQuantize(CLI::App* app, VerbFunction* run);
void AddBench(CLI::App* app, VerbFunction* run);

}  // namespace duo::cli
