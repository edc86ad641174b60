// Whole small files, read under a limit and written so that a crash never leaves half of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

/// The whole file. Errors as OpenError and RefuseLfsPointer, kIo; kCorrupt when it is larger than max_bytes.
Result<std::string> ReadFile(const std::string& path, size_t max_bytes);

/// An AtomicFile with these bytes: afterwards `path` holds either its old content or all of `bytes`. Errors as there.
Status WriteFileAtomic(const std::string& path, std::string_view bytes);

/// The error of an open() that failed with `error`: kNotFound, kIo. A link to a file that is not there is named as
/// such: a folder of links into a cache of downloads is full of them when a download was cut short.
Status OpenError(const std::string& path, int error);

/// kCorrupt when these are all bytes of a git-lfs pointer, which stands for a large file in a repository that was
/// cloned without its large files.
Status RefuseLfsPointer(std::string_view bytes, const std::string& path);

/// Whether there is a regular file, or a dangling link: opening that one gives OpenError's sentence.
bool FileExists(const std::string& path);
/// Its size where `path` is a regular file by itself, not a link to one.
std::optional<uint64_t> PlainFileBytes(const std::string& path);
bool IsDirectory(const std::string& path);
/// Creates the directory and its missing parents; an existing directory is fine. kIo.
Status MakeDirectories(const std::string& path);
/// The same for files that others must not see: missing directories are made with mode 0700.
Status MakePrivateDirectories(const std::string& path);

}  // namespace duo
