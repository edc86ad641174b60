// Parses any bytes as tokenizer.model. Bytes that pass duo's own check must be safe for the SentencePiece library.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "duo/tokenizer.h"
#include "text/sentencepiece_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  auto parsed = duo::ParseSentencePiece(bytes, "fuzz", {});
  if (!parsed.ok()) {
    if (parsed.status().message().empty()) std::abort();
    return 0;
  }
  const duo::Tokenizer tokenizer = duo::Tokenizer::Impl::Wrap(std::move(*parsed));
  const std::vector<int32_t> ids = tokenizer.Encode("Hello  w\xC3\xB6rld <s> \xE2\x96\x81 123");
  (void)tokenizer.Decode(ids);
  return 0;
}
