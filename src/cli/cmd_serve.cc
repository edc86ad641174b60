// duo serve: serves the model over HTTP to many clients.
#include <malloc.h>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/flags.h"
#include "cli/signals.h"
#include "cli/terminal.h"
#include "duo/tokenizer.h"
#include "server/server.h"
#include "server/site_rules.h"

namespace duo::cli {
namespace {

// Tokens between copies of the streaming windows. A request that continues another's prefix reads at most this many
// tokens again.
constexpr int64_t kSnapshotEvery = 1024;

struct ServeCommand {
  CommonOptions common;
  ServerOptions server;
  std::string api_key_file;
  std::string port_file;
  std::string chat_template;
  std::string max_body;
  std::string session_quota = "256GiB";
  std::string public_url;
  bool no_page = false;
};

Result<std::optional<ChatTemplate>> Template(const std::string& name, const Tokenizer& tokenizer) {
  using Style = ChatTemplate::Style;
  if (name == "none") return std::optional<ChatTemplate>();
  const std::pair<const char*, Style> styles[] = {
      {"llama2", Style::kLlama2}, {"llama3", Style::kLlama3}, {"mistral", Style::kMistral}, {"chatml", Style::kChatMl}};
  for (const auto& [known, style] : styles) {
    if (name == known) return std::optional<ChatTemplate>(ChatTemplate(style));
  }
  if (!name.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  "--chat-template: \"" + name + "\", expected llama2, llama3, mistral, chatml or none");
  }
  const Result<ChatTemplate> own = ChatTemplate::Recognise(tokenizer);
  if (own.ok()) return std::optional<ChatTemplate>(*own);
  Note("no chat: " + own.status().message() + "; --chat-template names one");
  return std::optional<ChatTemplate>();
}

/// The last component of a path, with or without a slash at its end.
std::string LastName(const std::string& path) {
  const std::filesystem::path p(path);
  return (p.has_filename() ? p : p.parent_path()).filename().string();
}

void LogLine(const std::string& line) {
  WriteErr(fmt::format("{:%Y-%m-%d %H:%M:%S} {}\n", fmt::localtime(std::time(nullptr)), line));
}

/// Makes memory of finished requests go back to the system. The many threads share few heaps, and large blocks (bodies,
/// answers) get mappings of their own. By default the C library stops mapping blocks after the first one was freed.
void KeepHeapSmall() {
  constexpr int kArenas = 2;
  constexpr int kMappedBytes = 256 << 10;
  mallopt(M_ARENA_MAX, kArenas);
  mallopt(M_MMAP_THRESHOLD, kMappedBytes);
  mallopt(M_TRIM_THRESHOLD, kMappedBytes);
}

Status SetHttpOptions(const ServeCommand& command, ServerOptions* options) {
  if (!command.max_body.empty()) {
    const Result<uint64_t> body_bytes = ParseBytes(command.max_body);
    if (!body_bytes.ok()) return body_bytes.status().Annotate("--max-body");
    if (*body_bytes == 0) return Status(StatusCode::kInvalidArgument, "--max-body: expected at least a byte");
    options->http.max_body_bytes = *body_bytes;
  }
  if (!command.public_url.empty()) {
    Result<std::string> origin = OriginOfUrl(command.public_url);
    if (!origin.ok()) return origin.status().Annotate("--public-url");
    options->public_origin = *std::move(origin);
  }
  return OkStatus();
}

Status Run(const ServeCommand& command) {
  KeepHeapSmall();
  if (command.common.json) return Status(StatusCode::kInvalidArgument, "--json: a server has no result to print");
  ServerOptions options = command.server;
  options.seed = command.common.seed;
  if (!command.api_key_file.empty()) {
    DUO_ASSIGN_OR_RETURN(options.api_keys, ReadKeyFile(command.api_key_file));
  }
  const auto is_admin = [&](const ApiKey& key) { return key.name == options.admin; };
  if (!options.admin.empty() && std::none_of(options.api_keys.begin(), options.api_keys.end(), is_admin)) {
    return Status(StatusCode::kInvalidArgument,
                  "--admin-key: \"" + options.admin + "\" is not the name of a key in --api-key-file");
  }
  const Result<uint64_t> session_bytes = ParseBytes(command.session_quota);
  if (!session_bytes.ok()) return session_bytes.status().Annotate("--session-quota");
  options.sessions.max_bytes = *session_bytes;
  DUO_RETURN_IF_ERROR(SetHttpOptions(command, &options));
  options.page = !command.no_page;
  options.memory_bytes = command.common.memory_bytes;
  if (options.autosave && options.sessions.path.empty()) {
    return Status(StatusCode::kInvalidArgument, "--autosave: needs --session-dir");
  }
  WorkerThreads threads;
  DUO_RETURN_IF_ERROR(Server::StartThreads(&threads));
  DUO_ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(command.common));
  NoteCertificate(loaded);
  NoteMeasuredLoss(loaded);
  DUO_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Open(loaded.dir));
  DUO_ASSIGN_OR_RETURN(options.chat, Template(command.chat_template, tokenizer));
  if (options.model_name.empty()) options.model_name = loaded.model.config().name;
  const ServedModel served{.model = &loaded.model,
                           .tokenizer = &tokenizer,
                           .session = loaded.session,
                           .pattern = loaded.pattern,
                           .pattern_name = loaded.pattern ? LastName(command.common.pattern) : ""};
  DUO_ASSIGN_OR_RETURN(const std::unique_ptr<Server> server, Server::Create(served, options, &threads, LogLine));
  if (options.api_keys.empty() && options.host != "127.0.0.1" && options.host != "localhost" && options.host != "::1") {
    Note("--host " + options.host + " without --api-key-file: everybody who reaches this machine can use the model");
  }
  if (!command.port_file.empty()) {
    DUO_RETURN_IF_ERROR(WriteFileAtomic(command.port_file, std::to_string(server->port()) + "\n"));
  }
  LogLine(server->Describe());
  DUO_RETURN_IF_ERROR(server->Run(Interrupted));
  LogLine("stopped");
  return OkStatus();
}

}  // namespace

void AddServe(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<ServeCommand>();
  command->common.snapshot_every = kSnapshotEvery;
  ServerOptions& server = command->server;
  CLI::App* verb =
      app->add_subcommand("serve", "Serve the model through OpenAI's interface, with a page for the browser.");
  verb->option_defaults()->group("Server");
  AddText(verb, "--host", &server.host, "an address",
          "Address to listen on; addresses other than loopback are reached from outside.")
      ->default_str(server.host);
  AddInt(verb, "--port", {0, 65535}, &server.port, "Port to listen on; 0 takes any free one.")
      ->default_str(std::to_string(server.port));
  AddText(verb, "--port-file", &command->port_file, "a file", "File that gets the port after it is bound.")
      ->option_text("FILE");
  AddText(verb, "--api-key-file", &command->api_key_file, "a file",
          "File with the keys that clients must send, NAME KEY in each line.")
      ->option_text("FILE");
  AddText(verb, "--admin-key", &server.admin, "a name", "Name of the key that sees the status and metrics of all keys.")
      ->option_text("NAME");
  verb->add_flag("--share-prefixes", server.share_prefixes,
                 "Let all keys share prefixes, sessions, status and metrics.");
  AddText(verb, "--model-name", &server.model_name, "a name", "Name of the model for clients (default: its folder's).")
      ->option_text("NAME");
  AddText(verb, "--chat-template", &command->chat_template, "a template",
          "Chat template: llama2, llama3, mistral, chatml or none (default: the model's own).")
      ->option_text("NAME");
  AddInt(verb, "--parallel", {1, Session::kMaxTogether}, &server.scheduler.max_running,
         "Max requests that run at once.")
      ->default_str(std::to_string(server.scheduler.max_running));
  AddInt(verb, "--queue", {1, 1 << 20}, &server.scheduler.max_waiting,
         "Max requests that wait; further ones are refused.")
      ->default_str(std::to_string(server.scheduler.max_waiting));
  AddInt(verb, "--max-tokens", {1, int64_t{1} << 36}, &server.default_max_tokens,
         "Max tokens of a chat answer, if its request does not say.")
      ->default_str(std::to_string(server.default_max_tokens));
  AddInt(verb, "--max-prompt-tokens", {0, int64_t{1} << 36}, &server.max_prompt_tokens,
         "Max tokens of a prompt; 0 means what the context holds.")
      ->default_str(std::to_string(server.max_prompt_tokens));
  AddText(verb, "--max-body", &command->max_body, "a size",
          "Max size of a request's body (default: 1 MiB and 32 bytes for each token of the context).")
      ->option_text("SIZE");
  AddInt(verb, "--connections", {1, 4096}, &server.http.max_connections, "Max connections at once; each has a thread.")
      ->default_str(std::to_string(server.http.max_connections));
  AddInt(verb, "--idle-timeout", {1, 86400}, &server.http.idle_timeout_s, "Seconds that a silent connection is kept.")
      ->default_str(std::to_string(server.http.idle_timeout_s));
  AddInt(verb, "--header-timeout", {1, 86400}, &server.http.header_timeout_s,
         "Seconds that a request's header may take to arrive.")
      ->default_str(std::to_string(server.http.header_timeout_s));
  AddReal(verb, "--request-timeout", {0, 1e9}, &server.max_request_seconds,
          "Seconds after which a completion ends with the text so far; 0 means no limit.")
      ->default_str(fmt::format("{:g}", server.max_request_seconds));
  AddReal(verb, "--drain", {0, 86400}, &server.drain_seconds,
          "Seconds that running requests may take when the server stops.")
      ->default_str(fmt::format("{:g}", server.drain_seconds));
  AddText(verb, "--session-dir", &server.sessions.path, "a folder", "Folder for saved sessions.")->option_text("DIR");
  AddText(verb, "--session-quota", &command->session_quota, "a size", "Max bytes of the saved sessions of one key.")
      ->default_str(command->session_quota);
  AddInt(verb, "--max-sessions", {1, 1 << 20}, &server.sessions.max_sessions,
         "Max number of saved sessions of one key.")
      ->default_str(std::to_string(server.sessions.max_sessions));
  verb->add_flag("--autosave", server.autosave, "Save all sessions when the server stops.");
  AddTexts(verb, "--allowed-host", &server.allowed_hosts,
           "Name that the server answers to, besides its own machine's; may be given several times.")
      ->option_text("NAME");
  AddText(verb, "--public-url", &command->public_url, "a URL",
          "Address where users find the server when a proxy stands before it.")
      ->option_text("URL");
  AddText(verb, "--cors", &server.cors_origin, "an origin", "Origin whose pages may call from a browser; * allows all.")
      ->option_text("ORIGIN");
  verb->add_flag("--no-page", command->no_page, "Do not serve the web page.");
  verb->add_flag("--log-prompts", server.log_prompts, "Write the bodies of requests into the log.");
  AddCommonOptions(verb, &command->common);
  verb->footer(
      "Ctrl-C or SIGTERM stops the server after running requests are done (--drain); a second signal ends it at once.\n"
      "Example:\n"
      "  duo serve --model demo --pattern demo --port 8080");
  verb->callback([command, run] { *run = [command] { return Run(*command); }; });
}

}  // namespace duo::cli
