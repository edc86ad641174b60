// `duo serve`: serves one model over HTTP.
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
  int port = 8080;                         // 0 = any free port
  std::string model_name;                  // as clients see it
  std::vector<ApiKey> api_keys;            // that clients may send, each a trust domain; empty = no key is required
  std::string admin;                       // name of the key whose status and metrics cover all keys; empty = none
  bool share_prefixes = false;             // all keys form one trust domain
  std::vector<std::string> allowed_hosts;  // further host names that it answers to
  std::string public_origin;               // of a proxy in front of it, as OriginOfUrl returns it; empty = none
  std::string cors_origin;                 // of pages that may call it from a browser; empty = none, "*" = all
  SessionFolder sessions;                  // folder and quota of saved sessions
  bool autosave = false;                   // save sessions when the server stops
  bool page = true;                        // serve the web page
  bool log_prompts = false;                // write request bodies to the log
  uint64_t memory_bytes = 0;               // for weights, workspace and sequences together; 0 = what the system has
  int64_t max_prompt_tokens = 0;           // 0 = the context
  int64_t default_max_tokens = 1024;       // of chat answers
  uint64_t seed = 0;                       // for requests without one, plus an offset by number; 0 = a random one each
  double drain_seconds = 30;               // time that running requests get when the server stops
  double max_request_seconds = 0;          // from a completion's arrival to its last token; 0 = no limit
  std::optional<ChatTemplate> chat;        // of the model; empty = none
  SchedulerOptions scheduler;
  HttpLimits http;  // a body limit of 0 follows from the context
};

/// The model that is served. Must outlive the server.
struct ServedModel {
  const Model* model = nullptr;
  const Tokenizer* tokenizer = nullptr;
  SessionOptions session;              // for requests that do not say otherwise
  std::optional<HeadPattern> pattern;  // empty for full attention
  std::string pattern_name;
};

class Server {
 public:
  /// Takes one line without its newline. Several threads may call it at once.
  using Log = std::function<void(const std::string& line)>;

  /// Starts the threads that a server needs, and a few more for the first connections. Call it before the backend
  /// starts its threads: where the system limits threads, the backend then works with fewer. Fails with
  /// kResourceExhausted when the system allows fewer than a server needs.
  static Status StartThreads(WorkerThreads* threads);

  /// Plans the memory and binds the port. `threads` went through StartThreads and must outlive the server. Fails with
  /// kResourceExhausted, and numbers, when not even one short sequence would fit, and with kIo when the port is taken.
  /// Fails as SessionStore::Open does for the session folder.
  static Result<std::unique_ptr<Server>> Create(const ServedModel& served, const ServerOptions& options,
                                                WorkerThreads* threads, Log log);
  ~Server();

  int port() const;
  /// For people: address, memory, limits.
  std::string Describe() const;

  /// Serves until `stop` returns true; it is called a few times a second. Then finishes the requests that run or wait,
  /// saves sessions if autosave is set, and returns.
  Status Run(const std::function<bool()>& stop);

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace duo
