// Output for people: colour and width of the terminal, notes, numbers. Everything except results goes to stderr.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo::cli {

bool StdinIsTerminal();
bool StdoutIsTerminal();
bool StderrIsTerminal();
/// Whether the stream is a terminal that is not "dumb", and NO_COLOR is not set (no-color.org).
bool StdoutHasColour();
bool StderrHasColour();
/// Columns of the terminal that the stream is; 80 when it is not a terminal.
int StdoutColumns();
int StderrColumns();

/// Writes text to stderr. A stderr that is closed or full only loses the text.
void WriteErr(std::string_view text);

/// Writes "duo: <sentence>" to stderr as one line.
void Note(std::string_view sentence);
/// Writes "duo: error: <sentence>" to stderr as one line.
void PrintError(std::string_view sentence);

/// Writes to stdout and flushes it. kIo when nobody reads or the disk is full.
Status WriteOut(std::string_view text);

/// "250 ms", "1.2 s", "3 min 20 s", "2 h 05 min".
std::string FormatDuration(double seconds);
/// "16384" -> "16,384".
std::string FormatCount(int64_t n);

}  // namespace duo::cli
