// Whole small files, read under a limit and written so that a crash never leaves half of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "duo/result.h"

namespace duo {

/// The whole file. kNotFound, kIo; kCorrupt when it is larger than max_bytes (the message names both sizes).
Result<std::string> ReadFile(const std::string& path, size_t max_bytes);

/// An AtomicFile with these bytes: afterwards `path` holds either its old content or all of `bytes`. Errors as there.
Status WriteFileAtomic(const std::string& path, std::string_view bytes);

bool FileExists(const std::string& path);
/// Its size where `path` is a regular file by itself, not a link to one.
std::optional<uint64_t> PlainFileBytes(const std::string& path);
bool IsDirectory(const std::string& path);
/// Creates the directory and its missing parents; an existing directory is fine. kIo.
Status MakeDirectories(const std::string& path);
/// The same for what others must not see: directories that are missing are made with mode 0700.
Status MakePrivateDirectories(const std::string& path);

}  // namespace duo
