#include "server/routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string_view>
#include <utility>
#include <vector>

#include "base/memory_info.h"
#include "server/ascii.h"
#include "server/web_page.h"

namespace duo {
namespace {

void Send(const Json& json, httplib::Response* response) { response->set_content(JsonText(json), "application/json"); }

void SendError(const ApiError& error, httplib::Response* response) {
  response->status = error.http_status;
  if (error.retry_after_s > 0) response->set_header("Retry-After", std::to_string(error.retry_after_s));
  if (error.http_status == 401) response->set_header("WWW-Authenticate", "Bearer");
  Send(ToJson(error), response);
}

Json ToJson(const SessionEntry& entry) {
  return {
      {"name", entry.name}, {"tokens", entry.n_tokens}, {"kv_bytes", entry.kv_bytes},    {"in_memory", entry.in_memory},
      {"busy", entry.busy}, {"on_disk", entry.on_disk}, {"disk_bytes", entry.disk_bytes}};
}

AccessRules AccessRulesOf(const ServerOptions& options) {
  return {.site = {.host = options.host,
                   .allowed_hosts = options.allowed_hosts,
                   .public_origin = options.public_origin,
                   .cors_origin = options.cors_origin},
          .api_keys = options.api_keys,
          .admin = options.admin,
          .share_prefixes = options.share_prefixes,
          .page = options.page};
}

}  // namespace

Routes::Routes(const ServedParts& parts, std::function<void(const std::string&)> log)
    : parts_(parts), log_(std::move(log)), access_(AccessRulesOf(*parts.options)) {}

// Every route goes through here, so none is left out of the metrics and each error gets the same form.
HttpServer::Handler Routes::Counted(const std::string& name, Handler handler) const {
  return [this, name, handler](const Request& request, Response& response) {
    // The size of a chunked body is known only now.
    const bool too_large = request.body.size() > parts_.options->http.max_body_bytes;
    const ApiStatus status =
        too_large ? ApiStatus(PlainError(413, "the body is too large")) : (this->*handler)(request, &response);
    if (!status.ok()) SendError(status.error(), &response);
    HttpServer::FitToVersion(request, &response);
    // The library sets the status after the handler, when the handler has set none.
    const int http_status = response.status == -1 ? 200 : response.status;
    parts_.metrics->CountResponse(CallerOfRequest(request).owner, name, http_status);
  };
}

void Routes::AddTo(HttpServer* http) {
  AddHooks(http);
  const auto get = [&](const std::string& pattern, const std::string& name, Handler handler) {
    http->Get(pattern, Counted(name, handler));
  };
  const auto post = [&](const std::string& pattern, const std::string& name, Handler handler) {
    http->Post(pattern, Counted(name, handler));
  };
  get("/health", "/health", &Routes::Health);
  get("/metrics", "/metrics", &Routes::MetricsText);
  get("/v1/models/?", "/v1/models", &Routes::ListModels);
  get("/v1/models/(.+)", "/v1/models/{id}", &Routes::ShowModel);
  get("/v1/status", "/v1/status", &Routes::ServerStatus);
  post("/v1/completions", "/v1/completions", &Routes::Complete);
  post("/v1/chat/completions", "/v1/chat/completions", &Routes::Chat);
  post("/tokenize", "/tokenize", &Routes::Tokenize);
  post("/detokenize", "/detokenize", &Routes::Detokenize);
  get("/v1/sessions/?", "/v1/sessions", &Routes::ListSessions);
  post("/v1/sessions/([^/]+)/save", "/v1/sessions/{name}/save", &Routes::SaveSession);
  post("/v1/sessions/([^/]+)/restore", "/v1/sessions/{name}/restore", &Routes::RestoreSession);
  http->Delete("/v1/sessions/([^/]+)", Counted("/v1/sessions/{name}", &Routes::DeleteSession));
  if (parts_.options->page) AddWebPage(http);
}

// The library calls these before, after or instead of a route's handler.
void Routes::AddHooks(HttpServer* http) {
  http->set_pre_routing_handler([this](const Request& request, Response& response) {
    AddCorsHeaders(access_.site, request, &response);
    if (!access_.site.cors_origin.empty() && request.method == "OPTIONS") {
      response.status = 204;
      return HttpServer::HandlerResponse::Handled;
    }
    const ApiStatus access = CheckAccess(access_, request);
    // A refused request has not told who asks, so it counts in nobody's metrics except those of all.
    if (access.ok()) return HttpServer::HandlerResponse::Unhandled;
    SendError(access.error(), &response);
    parts_.metrics->CountResponse("", "refused", response.status);
    return HttpServer::HandlerResponse::Handled;
  });
  http->set_error_handler([this](const Request& request, Response& response) {
    if (!response.body.empty()) return;  // the error of a route, which is complete
    parts_.metrics->CountResponse(CallerOfRequest(request).owner, "none", response.status);
    const std::string what = response.status == 404   ? "there is nothing at " + request.method + " " + request.path
                             : response.status == 413 ? "the body is too large"
                                                      : "the request could not be understood";
    SendError(PlainError(response.status, what), &response);
  });
  http->set_exception_handler([](const Request&, Response& response, const std::exception_ptr&) {
    SendError(PlainError(500, "something went wrong in the server"), &response);
  });
  http->set_logger([this](const Request& request, const Response& response) { LogAnswer(request, response); });
}

void Routes::LogAnswer(const Request& request, const Response& response) const {
  std::string line = fmt::format("{} {} {} {}", request.remote_addr, request.method, request.path, response.status);
  if (const std::string owner = CallerOfRequest(request).owner; !owner.empty()) line += " key " + owner;
  if (parts_.options->log_prompts && !request.body.empty()) line += " " + JsonText(Json(request.body));
  // A client must not be able to write lines of its own, or codes that a terminal obeys.
  std::replace_if(line.begin(), line.end(), IsAsciiControl, '?');
  log_(line);
}

// ---------------------------------------------------------------- the server's state

// A proxy or a supervisor asks this often, so it takes no lock that a step of the model holds.
ApiStatus Routes::Health(const Request&, Response* response) const {
  const bool stopping = parts_.scheduler->stopping(), changed = !parts_.model->CheckFiles().ok();
  if (stopping || changed) response->status = 503;
  Send({{"status", stopping ? "stopping" : changed ? "model changed" : "ok"}}, response);
  return ApiOk();
}

ApiStatus Routes::ServerStatus(const Request& request, Response* response) const {
  const SchedulerStatus status = parts_.scheduler->Snapshot(CallerOfRequest(request));
  Send(StatusJson(*parts_.facts, status, SecondsSince(started_)), response);
  return ApiOk();
}

// One snapshot for all gauges. So they agree with each other, and a caller gets the sums of its own sequences only.
ApiStatus Routes::MetricsText(const Request& request, Response* response) const {
  const Caller caller = CallerOfRequest(request);
  const SchedulerStatus status = parts_.scheduler->Snapshot(caller);
  Gauges gauges{.waiting = status.n_waiting,
                .running = 0,
                .idle = 0,
                .reserved_bytes = status.reserved_bytes,
                .idle_bytes = status.idle_bytes,
                .budget_bytes = status.budget_bytes,
                .resident_bytes = CurrentRssBytes(),
                .evicted = status.n_evicted};
  for (const SequenceStatus& s : status.sequences) {
    using State = SequenceStatus::State;
    gauges.idle += s.state == State::kIdle ? 1 : 0;
    gauges.running += s.state == State::kPrefill || s.state == State::kDecode ? 1 : 0;
  }
  response->set_content(parts_.metrics->Text(caller, gauges), "text/plain; version=0.0.4; charset=utf-8");
  return ApiOk();
}

// ---------------------------------------------------------------- models

Json Routes::ModelJson() const {
  return {{"id", parts_.options->model_name}, {"object", "model"}, {"created", created_}, {"owned_by", "duo"}};
}

ApiStatus Routes::ListModels(const Request&, Response* response) const {
  Send({{"object", "list"}, {"data", Json::array({ModelJson()})}}, response);
  return ApiOk();
}

ApiStatus Routes::ShowModel(const Request& request, Response* response) const {
  const std::string id = request.matches[1];
  const std::string& served = parts_.options->model_name;
  if (id != served) {
    ApiError error = PlainError(404, fmt::format("\"{}\" is not served here; the model is \"{}\"", id, served));
    error.code = "model_not_found";
    return error;
  }
  Send(ModelJson(), response);
  return ApiOk();
}

// ---------------------------------------------------------------- completions and tokens

ApiStatus Routes::Complete(const Request& request, Response* response) const {
  return parts_.completions->Complete(CompletionKind::kText, CallerOfRequest(request), request.body, response);
}

ApiStatus Routes::Chat(const Request& request, Response* response) const {
  return parts_.completions->Complete(CompletionKind::kChat, CallerOfRequest(request), request.body, response);
}

ApiStatus Routes::Tokenize(const Request& request, Response* response) const {
  DUO_ASSIGN_OR_RETURN(const TokenizeRequest wanted, ParseTokenize(request.body));
  DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, parts_.completions->Tokenize(wanted));
  Json json = {{"count", tokens.size()}, {"max_context", parts_.facts->plan->cache.session.max_context}};
  if (!wanted.count_only) json["tokens"] = tokens;
  Send(json, response);
  return ApiOk();
}

ApiStatus Routes::Detokenize(const Request& request, Response* response) const {
  DUO_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, ParseDetokenize(request.body));
  const auto vocab_size = parts_.model->config().vocab_size;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < vocab_size) continue;
    return BadField(fmt::format("tokens[{}]", i),
                    fmt::format("{} is not in the vocabulary 0..{}", tokens[i], vocab_size - 1));
  }
  Send({{"content", parts_.tokenizer->Decode(tokens)}}, response);
  return ApiOk();
}

// ---------------------------------------------------------------- sessions

ApiResult<SessionId> Routes::SessionOf(const Request& request) const {
  SessionId id{.owner = CallerOfRequest(request).owner, .name = request.matches[1]};
  if (IsSessionName(id.name)) return id;
  return BadField("name", "expected 1..64 letters, digits, '.', '_' or '-', not beginning with a dot");
}

ApiStatus Routes::ListSessions(const Request& request, Response* response) const {
  const auto entries = parts_.sessions->List(CallerOfRequest(request).owner);
  if (!entries.ok()) return FromStatus(entries.status());
  Json data = Json::array();
  for (const SessionEntry& entry : *entries) data.push_back(ToJson(entry));
  Send({{"object", "list"}, {"data", std::move(data)}}, response);
  return ApiOk();
}

ApiStatus Routes::SaveSession(const Request& request, Response* response) const {
  DUO_ASSIGN_OR_RETURN(const SessionId id, SessionOf(request));
  DUO_ASSIGN_OR_RETURN(const SessionEntry saved, parts_.sessions->Save(id));
  Send(ToJson(saved), response);
  return ApiOk();
}

ApiStatus Routes::RestoreSession(const Request& request, Response* response) const {
  DUO_ASSIGN_OR_RETURN(const SessionId id, SessionOf(request));
  DUO_ASSIGN_OR_RETURN(const SessionEntry restored, parts_.sessions->Restore(id));
  Send(ToJson(restored), response);
  return ApiOk();
}

ApiStatus Routes::DeleteSession(const Request& request, Response* response) const {
  DUO_ASSIGN_OR_RETURN(const SessionId id, SessionOf(request));
  DUO_RETURN_IF_API_ERROR(parts_.sessions->Delete(id));
  Send({{"name", id.name}, {"deleted", true}}, response);
  return ApiOk();
}

}  // namespace duo
