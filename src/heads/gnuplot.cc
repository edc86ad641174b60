#include "heads/gnuplot.h"

#include <fmt/format.h>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

extern char** environ;  // NOLINT: passed to the child unread

namespace duo {
namespace {

struct FileCloser {
  void operator()(FILE* file) const { fclose(file); }
};
using TempFile = std::unique_ptr<FILE, FileCloser>;  // nameless; deleted when closed

std::string Contents(FILE* file) {
  std::string bytes;
  char block[1 << 14];
  rewind(file);
  for (size_t n = 0; (n = fread(block, 1, sizeof block, file)) > 0;) bytes.append(block, n);
  return bytes;
}

Status CannotStart(int error) {
  if (error == ENOENT) {
    return NotFound("charts are drawn by the program gnuplot, which was not found; install the package gnuplot-nox");
  }
  return IoError("gnuplot cannot be started: {}", std::strerror(error));
}

// All three streams are files, not pipes, so that neither side can wait for the other.
Result<int> SpawnAndWait(int in, int out, int err) {
  posix_spawn_file_actions_t actions;
  if (posix_spawn_file_actions_init(&actions) != 0) return CannotStart(ENOMEM);
  int error = posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
  if (error == 0) error = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  if (error == 0) error = posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
  char name[] = "gnuplot";
  char no_startup_file[] = "-d";
  char* arguments[] = {name, no_startup_file, nullptr};
  pid_t child = 0;
  if (error == 0) error = posix_spawnp(&child, name, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return CannotStart(error);
  int exit_status = 0;
  while (waitpid(child, &exit_status, 0) < 0) {
    if (errno != EINTR) return CannotStart(errno);
  }
  return exit_status;
}

}  // namespace

Result<std::string> RunGnuplot(const std::string& script) {
  const TempFile in(std::tmpfile());
  const TempFile out(std::tmpfile());
  const TempFile err(std::tmpfile());
  if (!in || !out || !err || fwrite(script.data(), 1, script.size(), in.get()) != script.size() ||
      fflush(in.get()) != 0) {
    return IoError("no temporary file for gnuplot: {}", std::strerror(errno));
  }
  rewind(in.get());
  DUO_ASSIGN_OR_RETURN(const int exit_status, SpawnAndWait(fileno(in.get()), fileno(out.get()), fileno(err.get())));
  if (exit_status == 127 << 8) return CannotStart(ENOENT);  // how some C libraries report a failed exec
  std::string output = Contents(out.get());
  if (exit_status == 0 && !output.empty()) return output;
  return Internal("gnuplot failed: {}", Contents(err.get()).substr(0, 400));
}

std::string GnuplotString(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) {
    const bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    if (c == '\'' || c == '`' || c == '"') {
      quoted += "\u2019";
    } else {
      quoted += control || c == '\\' ? ' ' : c;
    }
  }
  return quoted + "'";
}

Status WriteImage(const std::string& path, int width, int height, const std::string& script) {
  const auto ends_with = [&path](std::string_view suffix) {
    return path.size() >= suffix.size() && path.compare(path.size() - suffix.size(), suffix.size(), suffix) == 0;
  };
  const char* terminal = ends_with(".svg") ? "svg" : ends_with(".png") ? "pngcairo" : nullptr;
  if (terminal == nullptr) {
    return InvalidArgument("{}: an image's file name must end in .svg or .png", path);
  }
  const Result<std::string> image =
      RunGnuplot(fmt::format("set terminal {} size {},{} noenhanced background rgb 'white'\nset encoding utf8\n",
                             terminal, width, height) +
                 script + "\nunset output\n");
  if (!image.ok()) return image.status().Annotate(path);
  return WriteFileAtomic(path, *image);
}

}  // namespace duo
