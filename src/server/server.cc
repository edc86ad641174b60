#include "server/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <future>
#include <thread>
#include <utility>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/memory_info.h"
#include "engine/session_layout.h"
#include "server/access.h"
#include "server/completion_api.h"
#include "server/http_server.h"
#include "server/session_store.h"
#include "server/status_page.h"
#include "server/web_files.h"

namespace duo {
namespace {

using httplib::Request;
using httplib::Response;

constexpr const char* kJson = "application/json";
constexpr const char* kPagePolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
constexpr std::chrono::seconds kWriteOut(10);  // max wait for clients to read their answers when the server stops
// Share of the memory that the system has available. The rest is for requests' texts, threads, and what the estimate
// misses.
constexpr double kShareOfAvailable = 0.9;
// A server must have room for at least this many tokens.
constexpr int64_t kMinTokens = 64;
// The server's own threads: one runs the model, one accepts connections, the others serve connections.
constexpr int kMinOwnThreads = 4, kOwnThreads = 6;
// Memory mappings that the system allows a process (vm.max_map_count is 65530), less those of other parts.
constexpr int64_t kMaxMappings = 50000;

void SetError(const ApiError& error, Response* response) {
  response->status = error.http_status;
  if (error.retry_after_s > 0) response->set_header("Retry-After", std::to_string(error.retry_after_s));
  if (error.http_status == 401) response->set_header("WWW-Authenticate", "Bearer");
  response->set_content(JsonText(ToJson(error)), kJson);
}

const char* TypeOf(std::string_view name) {
  const auto ends = [&](std::string_view suffix) {
    return name.size() >= suffix.size() && name.substr(name.size() - suffix.size()) == suffix;
  };
  return ends(".html")  ? "text/html; charset=utf-8"
         : ends(".css") ? "text/css; charset=utf-8"
         : ends(".js")  ? "text/javascript; charset=utf-8"
         : ends(".svg") ? "image/svg+xml"
                        : "application/octet-stream";
}

}  // namespace

class Server::Impl {
 public:
  Impl(const ServedModel& served, const ServerOptions& options, WorkerThreads* threads, Log log, CacheDefaults defaults,
       Workspace workspace, const PoolLimits& limits, ServedFacts facts)
      : model_(*served.model),
        tokenizer_(*served.tokenizer),
        options_(options),
        log_(std::move(log)),
        cache_(std::move(defaults)),
        workspace_(std::move(workspace)),
        facts_(std::move(facts)),
        access_{.site = {.host = options.host,
                         .allowed_hosts = options.allowed_hosts,
                         .public_origin = options.public_origin,
                         .cors_origin = options.cors_origin},
                .api_keys = options.api_keys,
                .admin = options.admin,
                .share_prefixes = options.share_prefixes,
                .page = options.page},
        threads_(threads),
        http_(options.http, threads, log_),
        scheduler_(&model_, &tokenizer_, &workspace_, &metrics_, threads, options.scheduler, limits) {}

  Status Open();
  Status Run(const std::function<bool()>& stop);

  int port() const { return port_; }
  std::string Describe() const;

 private:
  using Handler = std::optional<ApiError> (Impl::*)(const Request&, Response*);
  void AddRoutes();
  void Route(const char* method, const std::string& pattern, const std::string& name, Handler handler);
  void AddPage();
  void LogRequest(const Request& request, const Response& response);

  std::optional<ApiError> Health(const Request& request, Response* response);
  std::optional<ApiError> Models(const Request& request, Response* response);
  std::optional<ApiError> OneModel(const Request& request, Response* response);
  std::optional<ApiError> Completions(const Request& request, Response* response);
  std::optional<ApiError> Chat(const Request& request, Response* response);
  std::optional<ApiError> Tokenize(const Request& request, Response* response);
  std::optional<ApiError> Detokenize(const Request& request, Response* response);
  std::optional<ApiError> Status_(const Request& request, Response* response);
  std::optional<ApiError> MetricsPage(const Request& request, Response* response);
  std::optional<ApiError> Sessions(const Request& request, Response* response);
  std::optional<ApiError> SaveSession(const Request& request, Response* response);
  std::optional<ApiError> RestoreSession(const Request& request, Response* response);
  std::optional<ApiError> DeleteSession(const Request& request, Response* response);
  std::optional<ApiError> ReadSessionId(const Request& request, SessionId* id) const;
  Caller WhoAsks(const Request& request) const { return CallerOf(access_, request); }

  Json ModelJson() const;

  const Model& model_;
  const Tokenizer& tokenizer_;
  const ServerOptions options_;
  const Log log_;
  const CacheDefaults cache_;
  Workspace workspace_;
  ServedFacts facts_;
  const AccessRules access_;
  const Clock::time_point started_ = Clock::now();
  const int64_t created_ = static_cast<int64_t>(std::time(nullptr));
  int port_ = 0;
  Metrics metrics_;
  WorkerThreads* const threads_;
  // Run ends all connections before it returns. The scheduler is destroyed before the workspace of its sequences.
  HttpServer http_;
  Scheduler scheduler_;
  std::unique_ptr<SessionStore> sessions_;
  std::unique_ptr<CompletionApi> completions_;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;
int Server::port() const { return impl_->port(); }
std::string Server::Describe() const { return impl_->Describe(); }
Status Server::Run(const std::function<bool()>& stop) { return impl_->Run(stop); }

Status Server::StartThreads(WorkerThreads* threads) {
  const int n_threads = threads->Start(kOwnThreads);
  if (n_threads >= kMinOwnThreads) return OkStatus();
  return Status(StatusCode::kResourceExhausted,
                fmt::format("a server needs {} threads besides the first one (one for the model, one that accepts "
                            "connections, two for connections), but the system allows {}; raise the limit on "
                            "processes (ulimit -u, a container's pids.max), or free memory",
                            kMinOwnThreads, n_threads));
}

Result<std::unique_ptr<Server>> Server::Create(const ServedModel& served, const ServerOptions& options,
                                               WorkerThreads* threads, Log log) {
  const Model& model = *served.model;
  const ModelConfig& config = model.config();
  const uint64_t budget =
      options.memory_bytes != 0
          ? options.memory_bytes
          : model.weights_bytes() - model.mapped_bytes() +
                static_cast<uint64_t>(kShareOfAvailable * static_cast<double>(model.backend()->AvailableBytes()));
  CacheDefaults defaults{.session = served.session, .pattern = served.pattern, .pattern_name = served.pattern_name};
  defaults.session.memory_limit = budget;
  DUO_ASSIGN_OR_RETURN(defaults.session, ResolveOptions(config, defaults.session));
  if (defaults.session.chunk < options.scheduler.max_running) {
    return Status(StatusCode::kInvalidArgument, "a chunk of " + std::to_string(defaults.session.chunk) +
                                                    " tokens is less than the " +
                                                    std::to_string(options.scheduler.max_running) +
                                                    " sequences that may run at once; use a larger chunk")
        .About("chunk");
  }
  DUO_ASSIGN_OR_RETURN(const MemoryPlan plan,
                       PlanMemory(config, model.weights_bytes(), defaults.session, *model.backend()));
  SessionOptions full = defaults.session;
  full.heads = AllRetrieval(config.n_layers, config.n_kv_heads);
  DUO_ASSIGN_OR_RETURN(const MemoryPlan full_plan, PlanMemory(config, model.weights_bytes(), full, *model.backend()));
  ServerOptions fitted = options;
  const uint64_t for_model = plan.weights_bytes + plan.activation_bytes;
  fitted.http = FitBodies(options.http, defaults.session.max_context, budget - std::min(budget, for_model));
  const uint64_t for_bodies = MemoryForBodies(fitted.http);
  const uint64_t fixed = for_model + for_bodies;
  const uint64_t least = plan.TotalBytes(kMinTokens) + for_bodies;
  if (budget < least) {
    return Status(StatusCode::kResourceExhausted, "serving this model needs " + FormatBytes(least) + ", but only " +
                                                      FormatBytes(budget) +
                                                      " are given; use more memory, a smaller chunk or int8 weights")
        .About("memory_bytes");
  }
  PoolLimits limits{.budget_bytes = budget - fixed, .workspace_bytes = plan.activation_bytes, .max_sequences = 0};
  const int64_t mappings = int64_t{2} * config.n_layers * (2 * config.n_kv_heads + 1);
  limits.max_sequences =
      static_cast<size_t>(std::clamp<int64_t>(kMaxMappings / mappings, options.scheduler.max_running, 1024));
  DUO_ASSIGN_OR_RETURN(Workspace workspace, Workspace::Create(model, defaults.session));
  auto impl =
      std::make_unique<Impl>(served, fitted, threads, std::move(log), std::move(defaults), std::move(workspace), limits,
                             ServedFacts{.model_name = options.model_name,
                                         .config = &config,
                                         .cache = nullptr,
                                         .chat = options.chat,
                                         .plan = plan,
                                         .full_plan = full_plan,
                                         .budget_bytes = budget,
                                         .requests_bytes = for_bodies,
                                         .queue_limit = options.scheduler.max_waiting});
  DUO_RETURN_IF_ERROR(impl->Open());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Status Server::Impl::Open() {
  facts_.cache = &cache_;
  DUO_ASSIGN_OR_RETURN(sessions_, SessionStore::Open(options_.sessions, &model_, &cache_, &workspace_, &scheduler_));
  completions_ = std::make_unique<CompletionApi>(&model_, &tokenizer_, options_.chat, &cache_,
                                                 CompletionDefaults{.model_name = options_.model_name,
                                                                    .max_tokens = options_.default_max_tokens,
                                                                    .max_prompt_tokens = options_.max_prompt_tokens,
                                                                    .max_seconds = options_.max_request_seconds,
                                                                    .seed = options_.seed},
                                                 &scheduler_, sessions_.get());
  AddRoutes();
  DUO_ASSIGN_OR_RETURN(port_, http_.Bind(options_.host, options_.port));
  return OkStatus();
}

std::string Server::Impl::Describe() const {
  const MemoryPlan& plan = facts_.plan;
  const uint64_t for_sequences =
      facts_.budget_bytes - plan.weights_bytes - plan.activation_bytes - facts_.requests_bytes;
  const auto fits = static_cast<uint64_t>(plan.MaxContext(facts_.budget_bytes - facts_.requests_bytes));
  const std::string url = "http://" + HostAndPort(options_.host, port_) + "/" +
                          (options_.public_origin.empty() ? "" : ", public URL " + options_.public_origin + "/");
  return fmt::format("{} on {}: {} for sequences, about {} tokens, beside {} of weights and {} of workspace",
                     options_.model_name, url, FormatBytes(for_sequences), fits, FormatBytes(plan.weights_bytes),
                     FormatBytes(plan.activation_bytes));
}

Status Server::Impl::Run(const std::function<bool()>& stop) {
  std::atomic<bool> failed = false;
  const std::future<void> listening = threads_->Begin([&] { failed = !http_.listen_after_bind(); });
  if (!listening.valid()) return {StatusCode::kResourceExhausted, "the system allows no thread for connections"};
  while (!stop() && !failed) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const SchedulerStatus left = scheduler_.Snapshot({.owner = "", .sees_all = true});
  const auto n_left = std::count_if(left.sequences.begin(), left.sequences.end(),
                                    [](const SequenceStatus& s) { return s.state != SequenceStatus::State::kIdle; });
  log_(fmt::format("stopping: {} requests may take {:g} s more", n_left, options_.drain_seconds));
  // The sender of the signal may not wait for the requests to end, so idle sessions are saved first and the rest later.
  // A save that failed at first is tried again then, so its error is not lost.
  const bool autosave = options_.autosave && sessions_->has_folder();
  scheduler_.Close();
  if (autosave) static_cast<void>(sessions_->SaveIdle());
  scheduler_.Stop(options_.drain_seconds);
  Status status = autosave ? sessions_->SaveIdle() : OkStatus();
  // When the library stops, it ends streams between two events. So wait first until the generated text is written.
  const auto until = Clock::now() + kWriteOut;
  while (completions_->n_streams() > 0 && Clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  // The library would miss a stop before it listens.
  while (!http_.is_running() && !failed) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  http_.Stop();
  listening.wait();
  if (failed && status.ok()) status = Status(StatusCode::kIo, "the port takes no more connections");
  return status;
}

// ---------------------------------------------------------------- routes

void Server::Impl::Route(const char* method, const std::string& pattern, const std::string& name, Handler handler) {
  const auto handle = [this, name, handler](const Request& request, Response& response) {
    // The size of a chunked body is known only now.
    const bool too_large = request.body.size() > options_.http.max_body_bytes;
    const std::optional<ApiError> error =
        too_large ? PlainError(413, "the body is too large") : (this->*handler)(request, &response);
    if (error) SetError(*error, &response);
    HttpServer::FitToVersion(request, &response);
    metrics_.CountResponse(WhoAsks(request).owner, name, response.status == -1 ? 200 : response.status);
  };
  if (std::string_view(method) == "GET") {
    http_.Get(pattern, handle);
  } else if (std::string_view(method) == "POST") {
    http_.Post(pattern, handle);
  } else {
    http_.Delete(pattern, handle);
  }
}

void Server::Impl::AddRoutes() {
  http_.set_pre_routing_handler([this](const Request& request, Response& response) {
    AddCorsHeaders(access_.site, request, &response);
    if (!options_.cors_origin.empty() && request.method == "OPTIONS") {
      response.status = 204;
      return HttpServer::HandlerResponse::Handled;
    }
    const auto error = CheckAccess(access_, request);
    if (!error) return HttpServer::HandlerResponse::Unhandled;
    SetError(*error, &response);
    metrics_.CountResponse("", "refused", response.status);
    return HttpServer::HandlerResponse::Handled;
  });
  http_.set_error_handler([this](const Request& request, Response& response) {
    if (!response.body.empty()) return;
    metrics_.CountResponse(WhoAsks(request).owner, "none", response.status);
    const std::string what = response.status == 404   ? "there is nothing at " + request.method + " " + request.path
                             : response.status == 413 ? "the body is too large"
                                                      : "the request could not be understood";
    SetError(PlainError(response.status, what), &response);
  });
  http_.set_exception_handler([](const Request&, Response& response, const std::exception_ptr&) {
    SetError(PlainError(500, "something went wrong in the server"), &response);
  });
  http_.set_logger([this](const Request& request, const Response& response) { LogRequest(request, response); });

  Route("GET", "/health", "/health", &Impl::Health);
  Route("GET", "/metrics", "/metrics", &Impl::MetricsPage);
  Route("GET", "/v1/models/?", "/v1/models", &Impl::Models);
  Route("GET", "/v1/models/(.+)", "/v1/models/{id}", &Impl::OneModel);
  Route("GET", "/v1/status", "/v1/status", &Impl::Status_);
  Route("POST", "/v1/completions", "/v1/completions", &Impl::Completions);
  Route("POST", "/v1/chat/completions", "/v1/chat/completions", &Impl::Chat);
  Route("POST", "/tokenize", "/tokenize", &Impl::Tokenize);
  Route("POST", "/detokenize", "/detokenize", &Impl::Detokenize);
  Route("GET", "/v1/sessions/?", "/v1/sessions", &Impl::Sessions);
  Route("POST", "/v1/sessions/([^/]+)/save", "/v1/sessions/{name}/save", &Impl::SaveSession);
  Route("POST", "/v1/sessions/([^/]+)/restore", "/v1/sessions/{name}/restore", &Impl::RestoreSession);
  Route("DELETE", "/v1/sessions/([^/]+)", "/v1/sessions/{name}", &Impl::DeleteSession);
  if (options_.page) AddPage();
}

void Server::Impl::AddPage() {
  for (const WebFile& file : WebFiles()) {
    const auto serve = [file](const Request&, Response& response) {
      response.set_header("Content-Security-Policy", kPagePolicy);
      response.set_header("X-Content-Type-Options", "nosniff");
      response.set_header("Referrer-Policy", "no-referrer");
      response.set_header("Cache-Control", "no-cache");
      response.set_content(file.bytes.data(), file.bytes.size(), TypeOf(file.name));
    };
    std::string pattern = "/";
    for (const char c : file.name) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
    http_.Get(pattern, serve);
    if (file.name == "index.html") http_.Get("/", serve);
  }
}

void Server::Impl::LogRequest(const Request& request, const Response& response) {
  std::string line = fmt::format("{} {} {} {}", request.remote_addr, request.method, request.path, response.status);
  if (const std::string owner = WhoAsks(request).owner; !owner.empty()) line += " key " + owner;
  if (options_.log_prompts && !request.body.empty()) line += " " + JsonText(Json(request.body));
  for (char& c : line) c = static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  log_(line);
}

std::optional<ApiError> Server::Impl::Health(const Request&, Response* response) {
  const bool stopping = scheduler_.stopping(), changed = !model_.CheckFiles().ok();
  if (stopping || changed) response->status = 503;
  response->set_content(JsonText({{"status", stopping ? "stopping" : changed ? "model changed" : "ok"}}), kJson);
  return std::nullopt;
}

Json Server::Impl::ModelJson() const {
  return {{"id", options_.model_name}, {"object", "model"}, {"created", created_}, {"owned_by", "duo"}};
}

std::optional<ApiError> Server::Impl::Models(const Request&, Response* response) {
  response->set_content(JsonText({{"object", "list"}, {"data", Json::array({ModelJson()})}}), kJson);
  return std::nullopt;
}

std::optional<ApiError> Server::Impl::OneModel(const Request& request, Response* response) {
  const std::string id = request.matches[1];
  if (id != options_.model_name) {
    ApiError error = PlainError(404, "\"" + id + "\" is not served here; the model is \"" + options_.model_name + "\"");
    error.code = "model_not_found";
    return error;
  }
  response->set_content(JsonText(ModelJson()), kJson);
  return std::nullopt;
}

std::optional<ApiError> Server::Impl::Completions(const Request& request, Response* response) {
  return completions_->Complete(CompletionKind::kText, WhoAsks(request), request.body, response);
}

std::optional<ApiError> Server::Impl::Chat(const Request& request, Response* response) {
  return completions_->Complete(CompletionKind::kChat, WhoAsks(request), request.body, response);
}

std::optional<ApiError> Server::Impl::Tokenize(const Request& request, Response* response) {
  const auto asked = ParseTokenize(request.body);
  if (!asked.ok()) return asked.error();
  const auto tokens = completions_->Tokenize(*asked);
  if (!tokens.ok()) return tokens.error();
  Json json = {{"count", tokens->size()}, {"max_context", cache_.session.max_context}};
  if (!asked->count_only) json["tokens"] = *tokens;
  response->set_content(JsonText(json), kJson);
  return std::nullopt;
}

std::optional<ApiError> Server::Impl::Detokenize(const Request& request, Response* response) {
  const auto parsed = ParseDetokenize(request.body);
  if (!parsed.ok()) return parsed.error();
  const std::vector<int32_t>& tokens = *parsed;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < model_.config().vocab_size) continue;
    return BadField("tokens[" + std::to_string(i) + "]", std::to_string(tokens[i]) + " is not in the vocabulary 0.." +
                                                             std::to_string(model_.config().vocab_size - 1));
  }
  response->set_content(JsonText({{"content", tokenizer_.Decode(tokens)}}), kJson);
  return std::nullopt;
}

// ---------------------------------------------------------------- status

std::optional<ApiError> Server::Impl::Status_(const Request& request, Response* response) {
  response->set_content(JsonText(StatusJson(facts_, scheduler_.Snapshot(WhoAsks(request)), SecondsSince(started_))),
                        kJson);
  return std::nullopt;
}

std::optional<ApiError> Server::Impl::MetricsPage(const Request& request, Response* response) {
  const Caller caller = WhoAsks(request);
  const SchedulerStatus status = scheduler_.Snapshot(caller);
  Gauges gauges{.waiting = status.n_waiting,
                .running = 0,
                .kept = 0,
                .promised_bytes = status.promised_bytes,
                .kept_bytes = status.kept_bytes,
                .budget_bytes = status.budget_bytes,
                .resident_bytes = CurrentRssBytes(),
                .evicted = status.n_evicted};
  for (const SequenceStatus& s : status.sequences) {
    using State = SequenceStatus::State;
    gauges.kept += s.state == State::kIdle ? 1 : 0;
    gauges.running += s.state == State::kPrefill || s.state == State::kDecode ? 1 : 0;
  }
  response->set_content(metrics_.Text(caller, gauges), "text/plain; version=0.0.4; charset=utf-8");
  return std::nullopt;
}

// ---------------------------------------------------------------- sessions

namespace {

Json ToJson(const SessionEntry& entry) {
  return {
      {"name", entry.name}, {"tokens", entry.n_tokens}, {"kv_bytes", entry.kv_bytes},    {"in_memory", entry.in_memory},
      {"busy", entry.busy}, {"on_disk", entry.on_disk}, {"disk_bytes", entry.disk_bytes}};
}

}  // namespace

std::optional<ApiError> Server::Impl::ReadSessionId(const Request& request, SessionId* id) const {
  *id = {.owner = WhoAsks(request).owner, .name = request.matches[1]};
  if (IsSessionName(id->name)) return std::nullopt;
  return BadField("name", "expected 1..64 letters, digits, '.', '_' or '-', not beginning with a dot");
}

std::optional<ApiError> Server::Impl::Sessions(const Request& request, Response* response) {
  const auto entries = sessions_->List(WhoAsks(request).owner);
  if (!entries.ok()) return FromStatus(entries.status());
  Json data = Json::array();
  for (const SessionEntry& entry : *entries) data.push_back(ToJson(entry));
  response->set_content(JsonText({{"object", "list"}, {"data", std::move(data)}}), kJson);
  return std::nullopt;
}

std::optional<ApiError> Server::Impl::SaveSession(const Request& request, Response* response) {
  SessionId id;
  if (auto error = ReadSessionId(request, &id)) return error;
  SessionEntry entry;
  if (auto error = sessions_->Save(id, &entry)) return error;
  response->set_content(JsonText(ToJson(entry)), kJson);
  return std::nullopt;
}

std::optional<ApiError> Server::Impl::RestoreSession(const Request& request, Response* response) {
  SessionId id;
  if (auto error = ReadSessionId(request, &id)) return error;
  SessionEntry entry;
  if (auto error = sessions_->Restore(id, &entry)) return error;
  response->set_content(JsonText(ToJson(entry)), kJson);
  return std::nullopt;
}

std::optional<ApiError> Server::Impl::DeleteSession(const Request& request, Response* response) {
  SessionId id;
  if (auto error = ReadSessionId(request, &id)) return error;
  if (auto error = sessions_->Delete(id)) return error;
  response->set_content(JsonText({{"name", id.name}, {"deleted", true}}), kJson);
  return std::nullopt;
}

}  // namespace duo
