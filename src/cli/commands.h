// The verbs of `duo`. Each one has a file cmd_<verb>.cc. main.cc parses the command line, runs the verb that was named
// and turns its Status into the exit code.
#pragma once

#include <functional>
#include <string>

#include "duo/result.h"

namespace CLI {
class App;
}

namespace duo::cli {

/// Exit codes. They are a stable contract, because scripts depend on them.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;  // every error except kInvalidArgument
inline constexpr int kExitUsage = 2;   // kInvalidArgument: unknown flags, bad values, contradictions

/// The function that main runs after parsing succeeded. A verb prints no errors itself: main prints the returned
/// Status as "duo: error: <sentence>".
/// A verb sets the function from its CLI11 callback, so that nothing runs while parsing. `options` is a shared_ptr,
/// because CLI11 and the closure both need it:
///   verb->callback([options, run] { *run = [options] { return RunPlan(*options); }; });
using VerbFunction = std::function<Status()>;

/// Each function adds one subcommand with its flags, a one-line description and an example in its footer.
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
