#include "cli/remote_conversation.h"

#include <fmt/format.h>
#include <httplib.h>

#include <utility>

#include "base/error.h"
#include "cli/signals.h"
#include "cli/sse_reader.h"
#include "cli/terminal.h"

namespace duo::cli {
namespace {

// An answer begins after its prompt was read. Until then the server sends comments, so that the read does not time out.
constexpr int kReadTimeoutS = 600;

struct Address {
  std::string origin;  // "http://host:port"
  std::string prefix;  // of every path, without a slash at its end
};

Result<Address> ParseUrl(const std::string& url) {
  const std::string scheme = "http://";
  if (url.compare(0, scheme.size(), scheme) != 0 || url.size() == scheme.size()) {
    return InvalidArgument("--url: \"{}\", expected http://HOST:PORT", url);
  }
  const size_t slash = url.find('/', scheme.size());
  Address address{url.substr(0, slash), slash == std::string::npos ? "" : url.substr(slash)};
  while (!address.prefix.empty() && address.prefix.back() == '/') address.prefix.pop_back();
  const std::string version = "/v1";
  if (address.prefix.size() >= version.size() &&
      address.prefix.compare(address.prefix.size() - version.size(), version.size(), version) == 0) {
    address.prefix.resize(address.prefix.size() - version.size());
  }
  return address;
}

/// The message of a server's error; the HTTP status when the body is not an error of OpenAI's kind.
std::string ErrorText(int http_status, const std::string& body) {
  const auto json = ParseJson(body, "answer");
  if (json.ok() && json->is_object() && json->contains("error") && (*json)["error"].is_object()) {
    const auto message = (*json)["error"].find("message");
    if (message != (*json)["error"].end() && message->is_string()) return message->get<std::string>();
  }
  return fmt::format("status {}", http_status);
}

class RemoteConversation : public Conversation {
 public:
  RemoteConversation(RemoteOptions remote, const ConversationOptions& options, Address address)
      : remote_(std::move(remote)),
        options_(options),
        address_(std::move(address)),
        client_(std::make_unique<httplib::Client>(address_.origin)) {
    client_->set_read_timeout(kReadTimeoutS);
    if (!remote_.api_key.empty()) client_->set_bearer_token_auth(remote_.api_key);
    if (!options_.system.empty()) messages_.push_back({ChatMessage::Role::kSystem, options_.system});
  }

  /// Asks the server for the name of its model.
  Status Greet() {
    const auto answer = client_->Get(address_.prefix + "/v1/models");
    if (!answer) return Unreachable(answer.error());
    if (answer->status != 200) return Refused(answer->status, answer->body);
    const auto json = ParseJson(answer->body, remote_.url);
    if (json.ok() && json->is_object() && json->contains("data") && (*json)["data"].is_array() &&
        !(*json)["data"].empty()) {
      DUO_ASSIGN_OR_RETURN(model_, JsonStringOr((*json)["data"][0], "id", "", remote_.url));
    }
    if (!model_.empty()) return OkStatus();
    return IoError("{}: this is not a server with OpenAI's interface", remote_.url);
  }

  Status Ask(const std::string& question) override {
    messages_.push_back({ChatMessage::Role::kUser, question});
    Turn turn;
    std::string text;
    Status status = Answer(&text, &turn);
    if (!status.ok()) {
      messages_.pop_back();
      return status;
    }
    messages_.push_back({ChatMessage::Role::kAssistant, std::move(text)});
    turns_.push_back(std::move(turn));
    return OkStatus();
  }

  Status Undo() override {
    if (turns_.empty()) return InvalidArgument("/undo: there is no question to forget");
    turns_.pop_back();
    messages_.resize(messages_.size() - 2);
    return OkStatus();
  }

  Status Reset() override {
    turns_.clear();
    const bool has_system = !messages_.empty() && messages_[0].role == ChatMessage::Role::kSystem;
    messages_.resize(has_system ? 1 : 0);
    return OkStatus();
  }

  Json ToJson() const override {
    Json turns = Json::array();
    for (const Turn& turn : turns_) {
      turns.push_back({{"finish", turn.finish}, {"reused_tokens", turn.reused}, {"timings", turn.timings}});
    }
    return {{"messages", MessagesJson()}, {"turns", std::move(turns)}, {"url", remote_.url}, {"model", model_}};
  }

  std::string Describe() const override { return fmt::format("{} at {}", model_, remote_.url); }

 private:
  // NOLINTNEXTLINE(bugprone-exception-escape): moving a Json throws nothing, its assertions only look like it
  struct Turn {
    std::string finish;
    int64_t reused = 0;
    Json timings;
  };

  Status Unreachable(httplib::Error error) const {
    const std::string reason = httplib::to_string(error);
    return IoError("{}: {}; is `duo serve` running there?", remote_.url, reason);
  }
  Status Refused(int http_status, const std::string& body) const {
    const std::string text = ErrorText(http_status, body);
    return http_status == 400 ? InvalidArgument("{}: {}", remote_.url, text) : IoError("{}: {}", remote_.url, text);
  }

  /// Takes one event of the stream: appends its text to *text and stores its other values in *turn.
  Status Take(const std::string& data, std::string* text, Turn* turn) {
    if (data == "[DONE]") return OkStatus();
    DUO_ASSIGN_OR_RETURN(const Json event, ParseJson(data, remote_.url));
    if (event.contains("error")) return IoError("{}: {}", remote_.url, ErrorText(200, data));
    const auto choices = event.find("choices");
    if (choices != event.end() && choices->is_array() && !choices->empty()) {
      const Json& choice = (*choices)[0];
      const auto delta = choice.find("delta");
      if (delta != choice.end() && delta->is_object()) {
        DUO_ASSIGN_OR_RETURN(const std::string added, JsonStringOr(*delta, "content", "", remote_.url));
        if (options_.show_answers) DUO_RETURN_IF_ERROR(WriteOut(added));
        *text += added;
      }
      DUO_ASSIGN_OR_RETURN(const std::string finish, JsonStringOr(choice, "finish_reason", "", remote_.url));
      if (!finish.empty()) turn->finish = finish;
    }
    const auto duo = event.find("duo");
    if (duo != event.end() && duo->is_object()) {
      DUO_ASSIGN_OR_RETURN(turn->reused, JsonIntOr(*duo, "cached_tokens", 0, remote_.url));
      turn->timings = duo->value("timings", Json());
    }
    return OkStatus();
  }

  Status Answer(std::string* text, Turn* turn) {
    Json body = remote_.request;
    body["messages"] = MessagesJson();
    body["stream"] = true;
    httplib::Request request;
    request.method = "POST";
    request.path = address_.prefix + "/v1/chat/completions";
    request.set_header("Content-Type", "application/json");
    request.set_header("Accept", "text/event-stream");
    request.body = JsonText(body);
    int http_status = 0;
    std::string refusal;
    Status status;
    SseReader events;
    request.response_handler = [&](const httplib::Response& response) {
      http_status = response.status;
      return true;
    };
    request.content_receiver = [&](const char* data, size_t bytes, uint64_t, uint64_t) {
      if (Interrupted()) return false;
      if (http_status != 200) {
        refusal.append(data, bytes);
        return refusal.size() < (size_t{1} << 20);
      }
      for (const std::string& event : events.Push({data, bytes})) {
        status = Take(event, text, turn);
        if (!status.ok()) return false;
      }
      return true;
    };
    const auto sent = client_->send(request);
    DUO_RETURN_IF_ERROR(status);
    if (http_status != 0 && http_status != 200) return Refused(http_status, refusal);
    if (Interrupted()) {
      if (text->empty()) return Stopped("stopped before the answer began");
      turn->finish = "cancelled";
    } else if (!sent) {
      return Unreachable(sent.error());
    }
    return options_.show_answers ? WriteOut("\n") : OkStatus();
  }

  const RemoteOptions remote_;
  const ConversationOptions options_;
  const Address address_;
  std::unique_ptr<httplib::Client> client_;
  std::string model_;
  std::vector<Turn> turns_;
};

}  // namespace

Result<std::unique_ptr<Conversation>> ConnectConversation(const RemoteOptions& remote,
                                                          const ConversationOptions& options) {
  DUO_ASSIGN_OR_RETURN(Address address, ParseUrl(remote.url));
  auto conversation = std::make_unique<RemoteConversation>(remote, options, std::move(address));
  DUO_RETURN_IF_ERROR(conversation->Greet());
  return std::unique_ptr<Conversation>(std::move(conversation));
}

}  // namespace duo::cli
