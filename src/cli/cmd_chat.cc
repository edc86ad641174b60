// duo chat: a conversation, typed or piped in.
#include <poll.h>
#include <unistd.h>

#include <fmt/format.h>

#include <CLI/App.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/strings.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/conversation.h"
#include "cli/flag_names.h"
#include "cli/flags.h"
#include "cli/json_output.h"
#include "cli/remote_conversation.h"
#include "cli/sampling_options.h"
#include "cli/signals.h"
#include "cli/terminal.h"

namespace duo::cli {
namespace {

constexpr const char* kHelp =
    "/help         List these commands.\n"
    "/undo         Forget the last question and its answer.\n"
    "/reset        Forget the whole conversation except the system prompt.\n"
    "/save FILE    Write the conversation: JSON when FILE ends in .json, text otherwise.\n"
    "/quit         Leave; the end of the input does the same.\n"
    "A line that ends in \\ continues on the next line. Ctrl-C ends an answer.\n";

// Tokens between copies of the streaming windows. After an answer the conversation is rendered again and may differ in
// the answer's tokens, so most turns rewind a little.
constexpr int64_t kSnapshotEvery = 1024;

// Far more than any context. A pipe that never ends a line must not fill the memory.
constexpr size_t kMaxLineBytes = size_t{64} << 20;

struct ChatCommand {
  CommonOptions common;
  ConversationOptions conversation;
  std::string url;  // of a server; empty = the model runs in this process
  std::string api_key_file;
};

void Prompt(const char* text) {
  if (StdinIsTerminal()) WriteErr(text);
}

/// Waits until a line can be read from the terminal; false on Ctrl-C. Each poll ends after 100 ms, so that a signal
/// just before a poll is noticed after it. A terminal gives one line at a time, so stdin's buffer is empty here.
bool WaitForTerminal() {
  constexpr int kPollMs = 100;
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  while (!Interrupted()) {
    if (poll(&input, 1, kPollMs) > 0) return true;
  }
  return false;
}

/// Reads one line without its newline. Returns nothing at the end of the input and on Ctrl-C.
Result<std::optional<std::string>> ReadLine() {
  if (StdinIsTerminal() && !WaitForTerminal()) return std::optional<std::string>();
  std::string line;
  errno = 0;
  int c;
  while ((c = std::getc(stdin)) != EOF && c != '\n') {
    if (line.size() == kMaxLineBytes) {
      return InvalidArgument("standard input: a line of more than {} bytes", kMaxLineBytes);
    }
    line += static_cast<char>(c);
  }
  if (c == EOF && std::ferror(stdin) != 0 && errno != EINTR) {
    return IoError("standard input cannot be read: {}", std::strerror(errno));
  }
  if (c == EOF && (line.empty() || Interrupted())) return std::optional<std::string>();
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return std::optional<std::string>(std::move(line));
}

/// Reads one message. A line that ends in a backslash is joined with the next one.
Result<std::optional<std::string>> ReadMessage() {
  std::string message;
  Prompt("> ");
  while (true) {
    DUO_ASSIGN_OR_RETURN(std::optional<std::string> line, ReadLine());
    if (!line) return message.empty() || Interrupted() ? std::optional<std::string>() : std::optional(message);
    const bool goes_on = !line->empty() && line->back() == '\\';
    if (goes_on) line->back() = '\n';
    message += *line;
    if (!goes_on) return std::optional(std::move(message));
    Prompt(". ");
  }
}

enum class Next { kGoOn, kQuit };

Result<Next> RunCommand(const std::string& line, Conversation* conversation) {
  const size_t space = line.find(' ');
  const std::string name = line.substr(0, space);
  const std::string argument(TrimStart(std::string_view(line).substr(name.size()), " "));
  if (name == "/quit" && argument.empty()) return Next::kQuit;
  if (name == "/help" && argument.empty()) {
    WriteErr(kHelp);
    return Next::kGoOn;
  }
  Status status = InvalidArgument("\"{}\" is not a command; /help lists the commands", line);
  if (name == "/undo" && argument.empty()) status = conversation->Undo();
  if (name == "/reset" && argument.empty()) status = conversation->Reset();
  if (name == "/save" && argument.empty()) status = InvalidArgument("/save: a file name is missing");
  if (name == "/save" && !argument.empty()) status = conversation->Save(argument).Annotate("/save");
  if (!status.ok()) return status;
  return Next::kGoOn;
}

Result<Next> Handle(const std::string& message, Conversation* conversation) {
  if (Trim(message, " \t\n").empty()) return Next::kGoOn;
  if (message[0] == '/') return RunCommand(message, conversation);
  DUO_RETURN_IF_ERROR(conversation->Ask(message));
  return Next::kGoOn;
}

/// Answers messages until the input ends. On a terminal an error is shown and the conversation continues. Otherwise the
/// first error or Ctrl-C ends it.
Status Converse(Conversation* conversation, const CLI::App& verb) {
  while (true) {
    DUO_ASSIGN_OR_RETURN(const std::optional<std::string> message, ReadMessage());
    if (!message) {
      Prompt("\n");
      return OkStatus();
    }
    const Result<Next> next = Handle(*message, conversation);
    if (next.ok() && *next == Next::kQuit) return OkStatus();
    if (!StdinIsTerminal()) {
      if (!next.ok()) return next.status();
      if (Interrupted()) return OkStatus();
    }
    if (!next.ok()) PrintError(SentenceWithFlags(next.status(), verb));
    if (Interrupted()) ClearInterrupt();
  }
}

/// Turns the flags into fields of the server's requests.
Result<Json> RemoteRequest(const ChatCommand& command, const ConversationOptions& options) {
  const CommonOptions& common = command.common;
  const SamplerOptions& sampler = options.generate.sampler;
  if (!common.model.empty()) return InvalidArgument("--url: excludes --model, because the server has the model");
  Json duo = {{"top_k", sampler.top_k},
              {"min_p", sampler.min_p},
              {"repetition_penalty", sampler.repetition_penalty},
              {"pin_system_prompt", !options.system.empty()}};
  if (!common.pattern.empty()) duo["pattern"] = common.pattern;
  if (common.sparsity) duo["sparsity"] = *common.sparsity;
  if (common.sink) duo["sink"] = *common.sink;
  if (common.recent) duo["recent"] = *common.recent;
  Json request = {{"max_tokens", options.generate.max_tokens},
                  {"temperature", sampler.temperature},
                  {"top_p", sampler.top_p},
                  {"seed", static_cast<int64_t>(sampler.seed)},
                  {"duo", std::move(duo)}};
  if (!options.generate.stop.empty()) request["stop"] = options.generate.stop;
  return request;
}

Result<std::unique_ptr<Conversation>> Open(const ChatCommand& command, const ConversationOptions& options) {
  if (command.url.empty()) return LocalConversation::Open(command.common, options);
  RemoteOptions remote;
  remote.url = command.url;
  if (!command.api_key_file.empty()) {
    DUO_ASSIGN_OR_RETURN(const std::vector<ApiKey> keys, ReadKeyFile(command.api_key_file));
    if (keys.size() > 1) {
      return InvalidArgument("--api-key-file: {}: has {} keys; expected the one to send", command.api_key_file,
                             keys.size());
    }
    remote.api_key = keys.front().key;
  }
  DUO_ASSIGN_OR_RETURN(remote.request, RemoteRequest(command, options));
  return ConnectConversation(remote, options);
}

Status Run(const ChatCommand& command, const CLI::App& verb) {
  ConversationOptions options = command.conversation;
  options.generate.sampler.seed = command.common.seed;
  options.show_answers = !command.common.json;
  options.progress = command.common.progress;
  DUO_ASSIGN_OR_RETURN(const std::unique_ptr<Conversation> conversation, Open(command, options));
  if (StdinIsTerminal()) Note(conversation->Describe() + "; /help lists the commands");
  Status status = Converse(conversation.get(), verb);
  if (!command.common.json) return status;
  const Status printed = PrintJson(conversation->ToJson());  // also after an error, for the turns before it
  return status.ok() ? printed : status;
}

}  // namespace

void AddChat(CLI::App* app, VerbFunction* run) {
  auto command = std::make_shared<ChatCommand>();
  command->common.snapshot_every = kSnapshotEvery;
  command->conversation.generate.max_tokens = 1024;
  command->conversation.generate.sampler.temperature = 0.7;
  command->conversation.generate.sampler.top_p = 0.95;
  CLI::App* verb = app->add_subcommand("chat", "Hold a conversation through the model's own chat template.");
  AddText(verb, "--system", &command->conversation.system, "a text",
          "System prompt; streaming heads never forget it unless --pinned-prefix says otherwise.")
      ->type_name("TEXT");
  AddText(verb, "--url", &command->url, "an address",
          "Talk to the server at URL (duo serve) instead of opening a model.")
      ->option_text("URL");
  AddText(verb, "--api-key-file", &command->api_key_file, "a file", "File with the server's key.")->option_text("FILE");
  AddGenerateOptions(verb, &command->conversation.generate);
  AddCommonOptions(verb, &command->common);
  verb->footer(std::string("Each line of standard input is one message; answers go to standard output. Commands:\n") +
               kHelp +
               "Example:\n"
               "  duo chat --model ~/models/Llama-3.2-1B-Instruct --system \"Answer in one sentence.\"\n"
               "  duo chat --url http://127.0.0.1:8080");
  verb->callback([command, run, verb] { *run = [command, verb] { return Run(*command, *verb); }; });
}

}  // namespace duo::cli
