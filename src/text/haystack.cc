#include "text/haystack.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/strings.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = size_t{1} << 16;
constexpr size_t kMaxExpansion = 16;                // max bytes of JSON lines per byte of wanted text
constexpr size_t kMaxLineBytes = size_t{64} << 20;  // max length of a JSON line, which is one document

/// Takes bytes of a file in order. Returns false when it has enough.
using Sink = std::function<Result<bool>(std::string_view)>;

/// Passes all bytes of a source to the sink until the sink has enough.
using Source = std::function<Status(const Sink&)>;

Source FileSource(const std::string& path) {
  return [path](const Sink& sink) -> Status {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!file) return OpenError(path, errno);
    std::vector<char> buffer(kReadBytes);
    while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
      DUO_RETURN_IF_ERROR(RefuseLfsPointer({buffer.data(), n}, path));
      DUO_ASSIGN_OR_RETURN(const bool more, sink({buffer.data(), n}));
      if (!more) return OkStatus();
    }
    if (std::ferror(file.get()) != 0) return IoError("{}: cannot be read: {}", path, std::strerror(errno));
    return OkStatus();
  };
}

Status Decompress(const Source& source, const std::string& path, const Sink& sink) {
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  if (!context) return ResourceExhausted("no memory to decompress {}", path);
  std::vector<char> out(ZSTD_DStreamOutSize());
  size_t left = 0;  // 0: at the end of a frame
  const Sink decompress = [&](std::string_view bytes) -> Result<bool> {
    ZSTD_inBuffer input{bytes.data(), bytes.size(), 0};
    while (input.pos < input.size) {
      ZSTD_outBuffer output{out.data(), out.size(), 0};
      left = ZSTD_decompressStream(context.get(), &output, &input);
      if (ZSTD_isError(left) != 0) {
        return Corrupt("{}: not zstd data: {}", path, ZSTD_getErrorName(left));
      }
      DUO_ASSIGN_OR_RETURN(const bool more, sink({out.data(), output.pos}));
      if (!more) {
        left = 0;
        return false;
      }
    }
    return true;
  };
  DUO_RETURN_IF_ERROR(source(decompress));
  if (left != 0) return Corrupt("{}: the zstd data ends early", path);
  return OkStatus();
}

class Loader {
 public:
  explicit Loader(size_t max_bytes) : max_bytes_(max_bytes) {}

  Status Add(const std::string& path, const Source& source) {
    if (path.ends_with(".jsonl")) return AddLines(path, source);
    if (path.ends_with(".jsonl.zst")) {
      return AddLines(path, [&](const Sink& sink) { return Decompress(source, path, sink); });
    }
    bool begun = false;
    return source([&](std::string_view bytes) -> Result<bool> {
      if (!begun && !BeginDocument()) return false;
      begun = true;
      return Append(bytes);
    });
  }
  bool full() const { return haystack_.truncated; }
  Haystack Take() { return std::move(haystack_); }

 private:
  bool BeginDocument() { return haystack_.text.empty() || Append("\n\n"); }
  bool Append(std::string_view bytes) {
    const size_t room = max_bytes_ - std::min(max_bytes_, haystack_.text.size());
    haystack_.text += bytes.substr(0, room);
    haystack_.truncated = bytes.size() > room;
    return !haystack_.truncated;
  }

  Status AddLines(const std::string& path, const Source& source) {
    std::string line;
    size_t seen = 0;
    int64_t number = 0;
    const auto take_line = [&]() -> Result<bool> {
      ++number;
      if (Trim(line).empty()) return true;
      const std::string where = fmt::format("{}: line {}", path, number);
      DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(line, where));
      DUO_ASSIGN_OR_RETURN(const std::string text, JsonString(json, "text", where));
      if (text.empty()) return true;
      return BeginDocument() && Append(text);
    };
    bool more = true;
    DUO_RETURN_IF_ERROR(source([&](std::string_view bytes) -> Result<bool> {
      seen += bytes.size();
      if (seen / kMaxExpansion > max_bytes_) {
        return Corrupt("{}: line {}: more than {} bytes of JSON for {} bytes of text", path, number + 1, seen,
                       haystack_.text.size());
      }
      while (!bytes.empty() && more) {
        const size_t end = bytes.find('\n');
        line += bytes.substr(0, end);
        if (line.size() > kMaxLineBytes) {
          return Corrupt("{}: line {}: more than {} bytes", path, number + 1, kMaxLineBytes);
        }
        if (end == std::string_view::npos) break;
        DUO_ASSIGN_OR_RETURN(more, take_line());
        line.clear();
        bytes.remove_prefix(end + 1);
      }
      return more;
    }));
    if (more && !line.empty()) DUO_RETURN_IF_ERROR(take_line().status());
    return OkStatus();
  }

  size_t max_bytes_;
  Haystack haystack_;
};

bool IsText(const std::string& name) {
  return name.ends_with(".txt") || name.ends_with(".jsonl") || name.ends_with(".jsonl.zst");
}

}  // namespace

Result<Haystack> LoadHaystack(const std::string& path, size_t max_bytes) {
  Loader loader(max_bytes);
  if (!IsDirectory(path)) {
    if (!FileExists(path)) return NotFound("{}: no such file or folder", path);
    DUO_RETURN_IF_ERROR(loader.Add(path, FileSource(path)));
    return loader.Take();
  }
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->is_regular_file(error) && IsText(it->path().filename().string())) files.push_back(it->path().string());
  }
  if (error) return IoError("{}: cannot be listed: {}", path, error.message());
  if (files.empty()) return NotFound("{}: has no *.txt, *.jsonl or *.jsonl.zst", path);
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) {
    if (!loader.full()) DUO_RETURN_IF_ERROR(loader.Add(file, FileSource(file)));
  }
  return loader.Take();
}

Result<Haystack> ParseHaystack(std::string_view bytes, const std::string& name, size_t max_bytes) {
  Loader loader(max_bytes);
  DUO_RETURN_IF_ERROR(loader.Add(name, [bytes](const Sink& sink) { return sink(bytes).status(); }));
  return loader.Take();
}

}  // namespace duo
