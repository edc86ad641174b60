#include "server/server.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory_info.h"
#include "server/completion_api.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/routes.h"
#include "server/server_plan.h"
#include "server/session_store.h"
#include "server/status_page.h"

namespace duo {
namespace {

constexpr std::chrono::seconds kWriteOut(10);  // max wait for clients to read their answers when the server stops
// The server's own threads: one runs the model, one accepts connections, the others serve connections.
constexpr int kMinOwnThreads = 4, kOwnThreads = 6;

}  // namespace

class Server::Impl {
 public:
  Impl(const ServedModel& served, const ServerOptions& options, ServerPlan plan, Workspace workspace,
       WorkerThreads* threads, Log log)
      : model_(*served.model),
        tokenizer_(*served.tokenizer),
        options_(options),
        log_(std::move(log)),
        plan_(std::move(plan)),
        facts_{.model_name = options.model_name,
               .config = &model_.config(),
               .chat = options.chat,
               .plan = &plan_,
               .queue_limit = options.scheduler.max_waiting},
        workspace_(std::move(workspace)),
        threads_(threads),
        http_(options.http, threads, log_),
        scheduler_(&model_, &tokenizer_, &workspace_, &metrics_, threads, options.scheduler, plan_.pool) {}

  Status Open();
  Status Run(const std::function<bool()>& stop);

  int port() const { return port_; }
  std::string Describe() const;

 private:
  const Model& model_;
  const Tokenizer& tokenizer_;
  const ServerOptions options_;
  const Log log_;
  const ServerPlan plan_;
  const ServedFacts facts_;  // points to plan_
  Workspace workspace_;
  int port_ = 0;
  Metrics metrics_;
  WorkerThreads* const threads_;
  // The order of these members is the order of their lifetimes. The scheduler is destroyed before the workspace of its
  // sequences. The routes are destroyed before `http_`, which calls them: Run ends all connections before it returns.
  HttpServer http_;
  Scheduler scheduler_;
  std::unique_ptr<SessionStore> sessions_;
  std::unique_ptr<CompletionApi> completions_;
  std::unique_ptr<Routes> routes_;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;
int Server::port() const { return impl_->port(); }
std::string Server::Describe() const { return impl_->Describe(); }
Status Server::Run(const std::function<bool()>& stop) { return impl_->Run(stop); }

Status Server::StartThreads(WorkerThreads* threads) {
  const int n_threads = threads->Start(kOwnThreads);
  if (n_threads >= kMinOwnThreads) return OkStatus();
  return ResourceExhausted(
      "a server needs {} threads besides the first one (one for the model, one that accepts "
      "connections, two for connections), but the system allows {}; raise the limit on "
      "processes (ulimit -u, a container's pids.max), or free memory",
      kMinOwnThreads, n_threads);
}

Result<std::unique_ptr<Server>> Server::Create(const ServedModel& served, const ServerOptions& options,
                                               WorkerThreads* threads, Log log) {
  DUO_ASSIGN_OR_RETURN(ServerPlan plan, PlanServer(served, options));
  DUO_ASSIGN_OR_RETURN(Workspace workspace, Workspace::Create(*served.model, plan.cache.session));
  // The library must know the limits on bodies that follow from the plan.
  ServerOptions fitted = options;
  fitted.http = plan.http;
  auto impl = std::make_unique<Impl>(served, fitted, std::move(plan), std::move(workspace), threads, std::move(log));
  DUO_RETURN_IF_ERROR(impl->Open());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Status Server::Impl::Open() {
  const CacheDefaults* cache = &plan_.cache;
  DUO_ASSIGN_OR_RETURN(sessions_, SessionStore::Open(options_.sessions, &model_, cache, &workspace_, &scheduler_));
  completions_ = std::make_unique<CompletionApi>(&model_, &tokenizer_, options_.chat, cache,
                                                 CompletionDefaults{.model_name = options_.model_name,
                                                                    .max_tokens = options_.default_max_tokens,
                                                                    .max_prompt_tokens = options_.max_prompt_tokens,
                                                                    .max_seconds = options_.max_request_seconds,
                                                                    .seed = options_.seed},
                                                 &scheduler_, sessions_.get());
  routes_ = std::make_unique<Routes>(ServedParts{.model = &model_,
                                                 .tokenizer = &tokenizer_,
                                                 .options = &options_,
                                                 .facts = &facts_,
                                                 .metrics = &metrics_,
                                                 .scheduler = &scheduler_,
                                                 .sessions = sessions_.get(),
                                                 .completions = completions_.get()},
                                     log_);
  // The port is bound last. So a client that can connect finds every route, and an error before that leaves no port
  // open.
  routes_->AddTo(&http_);
  DUO_ASSIGN_OR_RETURN(port_, http_.Bind(options_.host, options_.port));
  return OkStatus();
}

std::string Server::Impl::Describe() const {
  const MemoryPlan& memory = plan_.memory;
  // For one sequence with the default options. Several share this.
  const int64_t fits = memory.MaxContext(plan_.budget_bytes - plan_.bodies_bytes);
  std::string url = fmt::format("http://{}/", HostAndPort(options_.host, port_));
  if (!options_.public_origin.empty()) url += fmt::format(", public URL {}/", options_.public_origin);
  return fmt::format("{} on {}: {} for sequences, about {} tokens, beside {} of weights and {} of workspace",
                     options_.model_name, url, FormatBytes(plan_.pool.budget_bytes), fits,
                     FormatBytes(memory.weights_bytes), FormatBytes(memory.activation_bytes));
}

// Stops in the order in which work flows in: new requests are refused, running ones end, their answers are written, and
// then the connections close. Health and status are answered until then.
Status Server::Impl::Run(const std::function<bool()>& stop) {
  std::atomic<bool> failed = false;
  const std::future<void> listening = threads_->Begin([&] { failed = !http_.listen_after_bind(); });
  if (!listening.valid()) return ResourceExhausted("the system allows no thread for connections");
  while (!stop() && !failed) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  // People who wonder why the server does not end at once read this line.
  const SchedulerStatus left = scheduler_.Snapshot({.owner = "", .sees_all = true});
  const auto n_left = std::count_if(left.sequences.begin(), left.sequences.end(),
                                    [](const SequenceStatus& s) { return s.state != SequenceStatus::State::kIdle; });
  log_(fmt::format("stopping: {} requests may take {:g} s more", n_left, options_.drain_seconds));
  // The sender of the signal may not wait for the requests to end, so idle sessions are saved first and the rest later.
  // A save that failed at first is tried again then, so its error is not lost. New requests are refused before the
  // first save: they would only lengthen the time until the second one.
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
  if (failed && status.ok()) status = IoError("the port takes no more connections");
  return status;
}

}  // namespace duo
