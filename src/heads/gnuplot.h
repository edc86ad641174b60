// Running gnuplot as a program.
#pragma once

#include <string>

#include "duo/result.h"

namespace duo {

/// What gnuplot prints on standard output for `script`. Found on PATH, started without a shell and without the user's
/// start-up file; the script reaches it through standard input. kNotFound when it is not installed, kIo when it cannot
/// be started, kInternal with its first lines of complaint when it fails.
Result<std::string> RunGnuplot(const std::string& script);

/// Runs `script` for an image of that size in pixels and writes it; the suffix of `path` chooses .svg or .png.
/// kInvalidArgument: another suffix. kIo: `path` cannot be written. Else as RunGnuplot; on every error `path` stays as
/// it was.
Status WriteImage(const std::string& path, int width, int height, const std::string& script);

/// `text` as a gnuplot string. Characters with a meaning inside or around gnuplot strings (quotes, backquotes, control
/// characters) are replaced, so that no text can end the string or start a command.
std::string GnuplotString(const std::string& text);

}  // namespace duo
