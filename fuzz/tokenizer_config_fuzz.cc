// Parses any bytes as tokenizer_config.json, including its chat template.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "duo/tokenizer.h"
#include "text/tokenizer_config.h"
#include "text/tokenizer_json.h"

namespace {

constexpr char kTokenizer[] = R"({"model":{"vocab":{"a":0,"<s>":1,"<|im_start|>":2,"<|im_end|>":3},"merges":[]},
  "added_tokens":[{"id":1,"content":"<s>","special":true},{"id":2,"content":"<|im_start|>","special":true}]})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = duo::TokenizerConfig::Parse(text, "fuzz");
  if (!config.ok()) {
    if (config.status().message().empty()) std::abort();
    return 0;
  }
  auto parsed = duo::ParseTokenizerJson(kTokenizer, "fixed", *config);
  if (!parsed.ok()) return 0;
  const duo::Tokenizer tokenizer = duo::Tokenizer::Impl::Wrap(std::move(*parsed));
  const auto chat = duo::ChatTemplate::Recognise(tokenizer);
  if (!chat.ok()) return 0;
  using Role = duo::ChatMessage::Role;
  const auto ids =
      chat->Render(tokenizer, {{Role::kSystem, "s"}, {Role::kUser, "a"}, {Role::kAssistant, text}, {Role::kUser, "a"}});
  if (!ids.ok()) std::abort();
  return 0;
}
