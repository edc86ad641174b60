// Running gnuplot as a program.
#pragma once

#include <string>

#include "duo/result.h"

namespace duo {

/// What gnuplot prints on standard output for `script`. Found on PATH, started without a shell and without the user's
/// start-up file; the script reaches it through standard input. kNotFound when it is not installed, kIo when it cannot
/// be started, kInternal with its first lines of complaint when it fails.
Result<std::string> RunGnuplot(const std::string& script);

/// `text` as a gnuplot string. Characters with a meaning inside or around gnuplot strings (quotes, backquotes, control
/// characters) are replaced, so that no text can end the string or start a command.
std::string GnuplotString(const std::string& text);

}  // namespace duo
