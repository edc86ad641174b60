// A conversation with the model of a server, through OpenAI's interface (`duo chat --url`).
#pragma once

#include <memory>
#include <string>

#include "cli/conversation.h"

namespace duo::cli {

struct RemoteOptions {
  std::string url;                // "http://127.0.0.1:8080", with or without "/v1"
  std::string api_key;            // empty = none
  Json request = Json::object();  // fields of every request besides messages and stream
};

/// Connects to the server at remote.url. Only http is spoken: a server with TLS is reached through a tunnel.
/// kInvalidArgument for another address; kIo when nothing answers there or the server refuses.
Result<std::unique_ptr<Conversation>> ConnectConversation(const RemoteOptions& remote,
                                                          const ConversationOptions& options);

}  // namespace duo::cli
