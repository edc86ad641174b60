#include "cli/eval_command.h"

#include <fmt/format.h>

#include <CLI/App.hpp>
#include <cstdlib>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/fnv1a.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/terminal.h"
#include "duo/version.h"
#include "eval/charts.h"

namespace duo::cli {
namespace {

// The command as the user typed it, as far as a process can know.
std::string CommandLine() {
  const Result<std::string> line = ReadFile("/proc/self/cmdline", size_t{1} << 20);
  if (!line.ok()) return "duo";
  std::string out = "duo";
  size_t at = line->find('\0');
  while (at != std::string::npos && at + 1 < line->size()) {
    const size_t end = std::min(line->find('\0', at + 1), line->size());
    const std::string word = line->substr(at + 1, end - at - 1);
    const bool plain = !word.empty() && word.find_first_not_of(
                                            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                            "0123456789-_./,:=@%+") == std::string::npos;
    if (plain) {
      out += " " + word;
    } else {
      out += " '";
      for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
      out += "'";
    }
    at = end;
  }
  return out;
}

std::string GatesFingerprint(const std::vector<double>& gates) {
  Fnv1a hash;
  hash.Add(gates.data(), gates.size() * sizeof gates[0]);
  return hash.Text();
}

}  // namespace

void AddEvalOptions(CLI::App* verb, EvalCommand* command) {
  AddText(verb, "--text", &command->text, "a file, a folder or builtin",
          "Long plain text: FILE, FILE.jsonl, FILE.jsonl.zst (key \"text\"), or a folder of these. builtin is made-up "
          "stories.")
      ->type_name("PATH|builtin")
      ->default_str(command->text);
  AddText(verb, "--out", &command->out, "a directory",
          "Directory that keeps every answer, the result and its picture. The same command continues an earlier run.")
      ->type_name("PATH");
  AddCommonOptions(verb, &command->common);
}

SessionOptions EvalRun::FullSession() const {
  SessionOptions full = loaded.session;
  full.heads = AllRetrieval(loaded.model.config().n_layers, loaded.model.config().n_kv_heads);
  return full;
}

Json EvalRun::Identified(Json result) const {
  for (const auto& [key, value] : recipe.items()) result.emplace(key, value);
  return result;
}

std::vector<EvalMode> EvalRun::Modes() const {
  std::vector<EvalMode> modes = {{"full", FullSession()}};
  if (loaded.pattern) modes.push_back({"duo", loaded.session});
  return modes;
}

Result<EvalRun> BeginEval(const EvalCommand& command, const std::string& kind, const Json& options, int64_t n_tokens) {
  Result<TextSource> text = TextSource::Open(command.text);
  if (!text.ok()) return text.status().Annotate("--text");
  DUO_ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(command.common));
  DUO_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Open(loaded.dir));
  const ModelConfig& c = loaded.model.config();
  const int64_t context = c.ContextFor(command.common.max_context);
  if (context > 0 && n_tokens > context) {
    return InvalidArgument("{} tokens at once, but the context is {}{}", n_tokens, context,
                           command.common.max_context > 0 ? "; --max-context sets another" : " tokens");
  }
  if (n_tokens > 0) loaded.session.max_context = n_tokens;  // nothing longer will be run
  const SessionOptions& s = loaded.session;
  Json recipe = {{"eval", kind},
                 {"model", c.name},
                 {"model_fingerprint", ModelFingerprint(loaded.model)},
                 {"backend", DescribeBackend(*loaded.backend)},
                 {"compute", ComputeTypeName(s.compute)},
                 {"kv_type", KvTypeName(s.kv_type)},
                 {"weights", WeightTypeName(c.weights)},
                 {"chunk", s.chunk},
                 {"pinned_prefix", s.pinned_prefix},
                 {"max_context", command.common.max_context},
                 {"text", text->identity()},
                 {"seed", command.common.seed},
                 {"duo_version", Version()},
                 {"options", options}};
  // Null without a pattern, so that the log refuses a command with one.
  recipe["heads"] = loaded.pattern ? HeadsJson(s) : Json();
  recipe["heads_fingerprint"] = loaded.pattern ? Json(HeadsFingerprint(s.heads)) : Json();
  recipe["gates_fingerprint"] = loaded.pattern ? Json(GatesFingerprint(loaded.pattern->gates)) : Json();
  ResultLog log;
  if (!command.out.empty()) {
    Result<ResultLog> opened = ResultLog::Open(command.out, kind + ".jsonl", recipe);
    if (!opened.ok()) return opened.status().Annotate("--out");
    log = std::move(opened).value();
    if (log.size() > 0) Note(fmt::format("{} results of an earlier run are reused", log.size()));
  }
  return EvalRun{std::move(loaded), std::move(tokenizer), std::move(text).value(),
                 std::move(recipe), std::move(log),       command.out};
}

Status FinishEval(const EvalCommand& command, const EvalRun& run, Json result, const std::string& text) {
  result = run.Identified(std::move(result));
  result["command"] = CommandLine();
  result["text_source"] = command.text;
  if (!command.out.empty()) {
    const std::string path = command.out + "/" + run.recipe.at("eval").get<std::string>();
    DUO_RETURN_IF_ERROR(WriteFileAtomic(path + ".json", JsonText(result, 1) + "\n"));
    Status drawn = WriteChart(result, path + ".svg");
    if (drawn.ok()) drawn = WriteChart(result, path + ".png");
    if (!drawn.ok()) Note("no picture: " + drawn.message());  // the numbers are written without it
    Note(fmt::format("written to {}.json{}", path, drawn.ok() ? ", .svg and .png" : ""));
  }
  return command.common.json ? PrintJson(result) : WriteOut(text);
}

}  // namespace duo::cli
