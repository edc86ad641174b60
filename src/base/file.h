// Reads small files whole, under a size limit, and writes them so that a crash never leaves half a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

/// Reads the whole file. Errors as OpenError and RefuseLfsPointer; kIo; kCorrupt when it is larger than max_bytes.
Result<std::string> ReadFile(const std::string& path, size_t max_bytes);

/// Writes `bytes` as an AtomicFile. Afterwards `path` holds either its old content or all of `bytes`. Errors as
/// AtomicFile.
Status WriteFileAtomic(const std::string& path, std::string_view bytes);

/// The error of an open() that failed with `error`: kNotFound or kIo. The sentence says if `path` is a dangling link.
/// Such links are common in a folder of links into a cache of downloads, after a download was cut short.
Status OpenError(const std::string& path, int error);

/// kCorrupt when `bytes` is a git-lfs pointer. Git leaves such a pointer in place of a large file that was not
/// downloaded.
Status RefuseLfsPointer(std::string_view bytes, const std::string& path);

/// Whether `path` is a regular file or a dangling link. Opening a dangling link gives OpenError's sentence.
bool FileExists(const std::string& path);
/// The size of the file when `path` is a regular file, not a link to one.
std::optional<uint64_t> PlainFileBytes(const std::string& path);
bool IsDirectory(const std::string& path);
/// Creates the directory and its missing parents; an existing directory is fine. kIo.
Status MakeDirectories(const std::string& path);
/// Like MakeDirectories, but creates missing directories with mode 0700, so that others cannot see their files.
Status MakePrivateDirectories(const std::string& path);

}  // namespace duo
