// Runs gnuplot as a separate program.
#pragma once

#include <string>

#include "duo/result.h"

namespace duo {

/// Runs gnuplot on `script` and returns what it prints on standard output. gnuplot is found on PATH and started without
/// a shell and without the user's start-up file. It reads the script from standard input. kNotFound when it is not
/// installed; kIo when it cannot be started; kInternal, with the first lines of its complaint, when it fails.
Result<std::string> RunGnuplot(const std::string& script);

/// Runs `script` for an image of that size in pixels and writes the image. The suffix of `path` selects the format,
/// .svg or .png. kInvalidArgument for another suffix; kIo when `path` cannot be written; other errors as RunGnuplot. On
/// every error `path` stays unchanged.
Status WriteImage(const std::string& path, int width, int height, const std::string& script);

/// Returns `text` as a gnuplot string. Characters with a meaning inside or around gnuplot strings (quotes, backquotes,
/// control characters) are replaced, so that no text can end the string or start a command.
std::string GnuplotString(const std::string& text);

}  // namespace duo
