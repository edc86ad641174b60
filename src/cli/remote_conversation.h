// A conversation with the model of a server (`duo chat --url`), OpenAI's interface.
#pragma once

#include <memory>
#include <string>

#include "cli/conversation.h"

namespace duo::cli {

struct RemoteOptions {
  std::string url;                // "http://127.0.0.1:8080", with or without "/v1"
  std::string api_key;            // empty = none
  Json request = Json::object();  // fields of every request beside messages and stream
};

/// The scheme is http: a server behind TLS is reached through a tunnel. kInvalidArgument for another address; kIo when
/// nobody answers there or the server refuses.
Result<std::unique_ptr<Conversation>> ConnectConversation(const RemoteOptions& remote,
                                                          const ConversationOptions& options);

}  // namespace duo::cli
