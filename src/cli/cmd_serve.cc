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

#include "base/error.h"
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

/// The chat template that --chat-template names; kOwn without the flag.
enum class TemplateChoice : uint8_t { kOwn, kNone, kLlama2, kLlama3, kMistral, kChatMl };

struct ServeCommand {
  CommonOptions common;
  ServerOptions server;
  std::string api_key_file;
  std::string port_file;
  TemplateChoice chat_template = TemplateChoice::kOwn;
  bool no_page = false;
};

/// Nothing for kNone, and for a model whose own template is not known, which a note says.
std::optional<ChatTemplate> FindTemplate(TemplateChoice choice, const Tokenizer& tokenizer) {
  switch (choice) {
    case TemplateChoice::kOwn: break;
    case TemplateChoice::kNone: return std::nullopt;
    case TemplateChoice::kLlama2: return ChatTemplate(ChatTemplate::Style::kLlama2);
    case TemplateChoice::kLlama3: return ChatTemplate(ChatTemplate::Style::kLlama3);
    case TemplateChoice::kMistral: return ChatTemplate(ChatTemplate::Style::kMistral);
    case TemplateChoice::kChatMl: return ChatTemplate(ChatTemplate::Style::kChatMl);
  }
  const Result<ChatTemplate> own = ChatTemplate::Recognise(tokenizer);
  if (own.ok()) return *own;
  Note("no chat: " + own.status().message() + "; --chat-template names one");
  return std::nullopt;
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

Status Run(const ServeCommand& command) {
  KeepHeapSmall();
  ServerOptions options = command.server;
  options.seed = command.common.seed;
  if (!command.api_key_file.empty()) {
    DUO_ASSIGN_OR_RETURN(options.api_keys, ReadKeyFile(command.api_key_file));
  }
  const auto is_admin = [&](const ApiKey& key) { return key.name == options.admin; };
  if (!options.admin.empty() && std::none_of(options.api_keys.begin(), options.api_keys.end(), is_admin)) {
    return InvalidArgument("--admin-key: \"{}\" is not the name of a key in --api-key-file", options.admin);
  }
  options.page = !command.no_page;
  options.memory_bytes = command.common.memory_bytes;
  WorkerThreads threads;
  DUO_RETURN_IF_ERROR(Server::StartThreads(&threads));
  DUO_ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(command.common));
  NoteCertificate(loaded);
  NoteMeasuredLoss(loaded);
  DUO_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Open(loaded.dir));
  options.chat = FindTemplate(command.chat_template, tokenizer);
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

void AddAccessFlags(CLI::App* verb, ServeCommand* command) {
  ServerOptions& server = command->server;
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
  AddChoice(verb, "--chat-template",
            Choices<TemplateChoice>{{"llama2", TemplateChoice::kLlama2},
                                    {"llama3", TemplateChoice::kLlama3},
                                    {"mistral", TemplateChoice::kMistral},
                                    {"chatml", TemplateChoice::kChatMl},
                                    {"none", TemplateChoice::kNone}},
            &command->chat_template, "Chat template (default: the model's own).");
}

void AddLimitFlags(CLI::App* verb, ServerOptions* server) {
  AddInt(verb, "--parallel", {1, Session::kMaxTogether}, &server->scheduler.max_running,
         "Max requests that run at once.")
      ->default_str(std::to_string(server->scheduler.max_running));
  AddInt(verb, "--queue", {1, 1 << 20}, &server->scheduler.max_waiting,
         "Max requests that wait; further ones are refused.")
      ->default_str(std::to_string(server->scheduler.max_waiting));
  AddInt(verb, "--max-tokens", {1, int64_t{1} << 36}, &server->default_max_tokens,
         "Max tokens of a chat answer, if its request does not say.")
      ->default_str(std::to_string(server->default_max_tokens));
  AddInt(verb, "--max-prompt-tokens", {0, int64_t{1} << 36}, &server->max_prompt_tokens,
         "Max tokens of a prompt; 0 means what the context holds.")
      ->default_str(std::to_string(server->max_prompt_tokens));
  AddBytes(verb, "--max-body", &server->http.max_body_bytes,
           "Max size of a request's body (default: 1 MiB and 32 bytes for each token of the context).");
  AddInt(verb, "--connections", {1, 4096}, &server->http.max_connections, "Max connections at once; each has a thread.")
      ->default_str(std::to_string(server->http.max_connections));
  AddInt(verb, "--idle-timeout", {1, 86400}, &server->http.idle_timeout_s, "Seconds that a silent connection is kept.")
      ->default_str(std::to_string(server->http.idle_timeout_s));
  AddInt(verb, "--header-timeout", {1, 86400}, &server->http.header_timeout_s,
         "Seconds that a request's header may take to arrive.")
      ->default_str(std::to_string(server->http.header_timeout_s));
  AddReal(verb, "--request-timeout", {0, 1e9}, &server->max_request_seconds,
          "Seconds after which a completion ends with the text so far; 0 means no limit.")
      ->default_str(fmt::format("{:g}", server->max_request_seconds));
  AddReal(verb, "--drain", {0, 86400}, &server->drain_seconds,
          "Seconds that running requests may take when the server stops.")
      ->default_str(fmt::format("{:g}", server->drain_seconds));
}

void AddSessionFlags(CLI::App* verb, ServerOptions* server) {
  AddText(verb, "--session-dir", &server->sessions.path, "a folder", "Folder for saved sessions.")->option_text("DIR");
  AddBytes(verb, "--session-quota", &server->sessions.max_bytes, "Max bytes of the saved sessions of one key.")
      ->default_str("256GiB");
  AddInt(verb, "--max-sessions", {1, 1 << 20}, &server->sessions.max_sessions,
         "Max number of saved sessions of one key.")
      ->default_str(std::to_string(server->sessions.max_sessions));
  verb->add_flag("--autosave", server->autosave, "Save all sessions when the server stops.")->needs("--session-dir");
}

void AddPageFlags(CLI::App* verb, ServeCommand* command) {
  ServerOptions& server = command->server;
  AddTexts(verb, "--allowed-host", &server.allowed_hosts,
           "Name that the server answers to, besides its own machine's; may be given several times.")
      ->option_text("NAME");
  AddParsed(verb, "--public-url", OriginOfUrl, &server.public_origin,
            "Address where users find the server when a proxy stands before it.")
      ->type_name("URL");
  AddText(verb, "--cors", &server.cors_origin, "an origin", "Origin whose pages may call from a browser; * allows all.")
      ->option_text("ORIGIN");
  verb->add_flag("--no-page", command->no_page, "Do not serve the web page.");
  verb->add_flag("--log-prompts", server.log_prompts, "Write the bodies of requests into the log.");
}

}  // namespace

void AddServe(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<ServeCommand>();
  command->common.snapshot_every = kSnapshotEvery;
  CLI::App* verb =
      app->add_subcommand("serve", "Serve the model through OpenAI's interface, with a page for the browser.");
  verb->option_defaults()->group("Server");
  AddAccessFlags(verb, command.get());
  AddLimitFlags(verb, &command->server);
  AddSessionFlags(verb, &command->server);
  AddPageFlags(verb, command.get());
  AddCommonOptions(verb, &command->common);
  verb->footer(
      "Ctrl-C or SIGTERM stops the server after running requests are done (--drain); a second signal ends it at once.\n"
      "Example:\n"
      "  duo serve --model demo --pattern demo --port 8080");
  verb->callback([verb, command, run] {
    RefuseFlags(*verb, {"--json"}, "a server has no result to print");
    *run = [command] { return Run(*command); };
  });
}

}  // namespace duo::cli
