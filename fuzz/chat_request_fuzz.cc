// Builds chats from any bytes: messages with texts and with parts, some of them nested deeper or of another kind. Valid
// chats are accepted with the text that was put in. All others are refused, and the error names the field.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "server/api_request.h"

namespace {

/// Takes decisions and texts from the fuzzer's bytes; zeros once they are used up.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  unsigned Below(unsigned n) { return Next() % n; }
  /// ASCII, so that it is UTF-8.
  std::string Text() {
    std::string text(Below(12), ' ');
    for (char& c : text) c = static_cast<char>(Next() & 0x7f);
    return text;
  }

 private:
  uint8_t Next() { return empty() ? 0 : data_[at_++]; }
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

/// A value that is not allowed as a part of a content, nested at most `depth` levels.
duo::Json Odd(Bytes* bytes, int depth) {
  switch (bytes->Below(depth > 0 ? 8 : 6)) {
    case 0: return nullptr;
    case 1: return bytes->Below(256);
    case 2: return -1.5;
    case 3: return bytes->Text();
    case 4: return duo::Json::array();
    case 5: return duo::Json::object();
    case 6: {
      duo::Json list = duo::Json::array();
      for (unsigned n = bytes->Below(4); n > 0; --n) list.push_back(Odd(bytes, depth - 1));
      return list;
    }
    default: return {{"type", "text"}, {"text", duo::Json::array({Odd(bytes, depth - 1)})}};
  }
}

struct Chat {
  duo::Json json = {{"messages", duo::Json::array()}};
  std::vector<std::string> texts;
  bool valid = true;
};

duo::Json Content(Bytes* bytes, Chat* chat) {
  std::string text;
  duo::Json content;
  if (bytes->Below(3) == 0) {
    content = text = bytes->Text();
  } else {
    content = duo::Json::array();
    for (unsigned n = bytes->Below(6); n > 0; --n) {
      if (bytes->Below(16) == 0) {
        content.push_back(Odd(bytes, 70));
        chat->valid = false;
        continue;
      }
      const std::string piece = bytes->Text();
      content.push_back({{"type", "text"}, {"text", piece}});
      text += piece;
    }
  }
  chat->texts.push_back(text);
  return content;
}

Chat MakeChat(Bytes* bytes) {
  static const char* const roles[] = {"system", "developer", "user", "assistant"};
  Chat chat;
  do {
    duo::Json message = {{"role", roles[bytes->Below(4)]}, {"content", Content(bytes, &chat)}};
    if (bytes->Below(24) == 1) {
      message["role"] = Odd(bytes, 3);
      const bool is_role =
          std::any_of(std::begin(roles), std::end(roles), [&](const char* r) { return message["role"] == r; });
      chat.valid = chat.valid && is_role;
    }
    chat.json["messages"].push_back(std::move(message));
  } while (!bytes->empty());
  return chat;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 4096) return 0;
  Bytes bytes(data, size);
  const Chat chat = MakeChat(&bytes);
  const auto request = duo::ParseCompletion(chat.json.dump(), duo::CompletionKind::kChat);
  DUO_CHECK(request.ok() == chat.valid, "a chat is accepted if and only if it is valid");
  if (!request.ok()) {
    const duo::ApiError& error = request.error();
    DUO_CHECK(error.http_status == 400 && !error.param.empty() && !error.message.empty(), "an error names its field");
    DUO_CHECK(!duo::JsonText(duo::ToJson(error)).empty(), "an error is JSON");
    return 0;
  }
  DUO_CHECK(request->messages.size() == chat.texts.size(), "no message is lost");
  for (size_t i = 0; i < chat.texts.size(); ++i) {
    DUO_CHECK(request->messages[i].text == chat.texts[i], "a text is its parts, one after another");
  }
  return 0;
}
