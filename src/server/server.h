// `duo serve`: one model behind HTTP.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "duo/head_pattern.h"
#include "duo/model.h"
#include "duo/session.h"
#include "duo/tokenizer.h"
#include "server/api_keys.h"
#include "server/http_limits.h"
#include "server/scheduler.h"
#include "server/session_store.h"
#include "server/worker_threads.h"

namespace duo {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                         // 0 = any free one
  std::string model_name;                  // as clients see it
  std::vector<ApiKey> api_keys;            // that clients may send, each a trust domain; empty = none is asked for
  std::string admin;                       // name of the key whose status and metrics show everything; empty = none
  bool share_prefixes = false;             // the keys are one trust domain
  std::vector<std::string> allowed_hosts;  // further names that it answers to
  std::string public_origin;               // of a proxy before it: OriginOfUrl; empty = none
  std::string cors_origin;                 // allowed to call from a browser; empty = none, "*" = all
  SessionFolder sessions;                  // for saved ones
  bool autosave = false;                   // sessions are saved when the server stops
  bool page = true;                        // whether the web page is served
  bool log_prompts = false;                // whether prompts may stand in the log
  uint64_t memory_bytes = 0;               // for weights, workspace and sequences together; 0 = what the system has
  int64_t max_prompt_tokens = 0;           // 0 = the context
  int64_t default_max_tokens = 1024;       // of chat answers
  uint64_t seed = 0;                       // of requests without one, by their number; 0 = drawn anew for each
  double drain_seconds = 30;               // that what runs may still take when the server stops
  double max_request_seconds = 0;          // of a completion, from its arrival to its last token; 0 = no limit
  std::optional<ChatTemplate> chat;        // for the model; empty = none
  SchedulerOptions scheduler;
  HttpLimits http;  // a body limit of 0 follows from the context
};

/// What is served. Must outlive the server.
struct ServedModel {
  const Model* model = nullptr;
  const Tokenizer* tokenizer = nullptr;
  SessionOptions session;              // of requests that do not say otherwise
  std::optional<HeadPattern> pattern;  // empty for full attention
  std::string pattern_name;
};

class Server {
 public:
  /// Takes one line without its newline; may be called by several threads at once.
  using Log = std::function<void(const std::string& line)>;

  /// Starts the threads without which there is no serving, and a few for the first connections: before the backend's,
  /// so that where the system limits threads the backend works with fewer. kResourceExhausted when not even the least
  /// can be had.
  static Status StartThreads(WorkerThreads* threads);

  /// `threads` went through StartThreads and outlives the server. Plans the memory and binds the port.
  /// kResourceExhausted with numbers when not even one short sequence would fit; kIo when the port is taken;
  /// kInvalidArgument, kIo for the session folder.
  static Result<std::unique_ptr<Server>> Create(const ServedModel& served, const ServerOptions& options,
                                                WorkerThreads* threads, Log log);
  ~Server();

  int port() const;
  /// For people: address, memory, limits.
  std::string Describe() const;

  /// Serves until `stop` says so (asked a few times a second); then finishes what runs, saves what autosave asks for,
  /// and returns.
  Status Run(const std::function<bool()>& stop);

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace duo
