// The routes of a server: which function answers which method and path.
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <string>

#include "base/clock.h"
#include "duo/model.h"
#include "duo/tokenizer.h"
#include "server/access.h"
#include "server/api_error.h"
#include "server/completion_api.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/scheduler.h"
#include "server/server.h"
#include "server/session_store.h"
#include "server/status_page.h"

namespace duo {

/// The parts of a server that answer its requests. All of them are thread safe or do not change.
struct ServedParts {
  const Model* model = nullptr;
  const Tokenizer* tokenizer = nullptr;
  const ServerOptions* options = nullptr;
  const ServedFacts* facts = nullptr;
  Metrics* metrics = nullptr;
  Scheduler* scheduler = nullptr;
  SessionStore* sessions = nullptr;
  CompletionApi* completions = nullptr;
};

/// Checks every request, answers it, counts and logs the answer. Its functions run on the threads of connections, many
/// at once, and it does not change after AddTo.
class Routes {
 public:
  /// The parts must outlive it. `log` takes a line for each answer.
  Routes(const ServedParts& parts, std::function<void(const std::string&)> log);

  /// Adds all routes. This object must outlive the last answer of `http`. Call it before `http` listens.
  void AddTo(HttpServer* http);

 private:
  using Request = httplib::Request;
  using Response = httplib::Response;
  /// Fills *response, or returns the error that becomes the response.
  using Handler = ApiStatus (Routes::*)(const Request& request, Response* response) const;
  /// `name` is the route's name in the metrics.
  HttpServer::Handler Counted(const std::string& name, Handler handler) const;
  void AddHooks(HttpServer* http);
  void LogAnswer(const Request& request, const Response& response) const;

  ApiStatus Health(const Request& request, Response* response) const;
  ApiStatus MetricsText(const Request& request, Response* response) const;
  ApiStatus ServerStatus(const Request& request, Response* response) const;
  ApiStatus ListModels(const Request& request, Response* response) const;
  ApiStatus ShowModel(const Request& request, Response* response) const;
  ApiStatus Complete(const Request& request, Response* response) const;
  ApiStatus Chat(const Request& request, Response* response) const;
  ApiStatus Tokenize(const Request& request, Response* response) const;
  ApiStatus Detokenize(const Request& request, Response* response) const;
  ApiStatus ListSessions(const Request& request, Response* response) const;
  ApiStatus SaveSession(const Request& request, Response* response) const;
  ApiStatus RestoreSession(const Request& request, Response* response) const;
  ApiStatus DeleteSession(const Request& request, Response* response) const;

  Caller CallerOfRequest(const Request& request) const { return CallerOf(access_, request); }
  ApiResult<SessionId> SessionOf(const Request& request) const;
  Json ModelJson() const;

  const ServedParts parts_;
  const std::function<void(const std::string&)> log_;
  const AccessRules access_;
  const Clock::time_point started_ = Clock::now();
  const int64_t created_ = static_cast<int64_t>(std::time(nullptr));
};

}  // namespace duo
