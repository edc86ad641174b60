// Parses any bytes as tokenizer.json. The result is an error, or a tokenizer that encodes and decodes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "duo/tokenizer.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  auto parsed = duo::ParseTokenizerJson(text, "fuzz", {});
  if (!parsed.ok()) {
    if (parsed.status().message().empty()) std::abort();
    return 0;
  }
  const duo::Tokenizer tokenizer = duo::Tokenizer::Impl::Wrap(std::move(*parsed));
  const std::string_view samples[] = {"Hello  wörld 123\r\n", " \xE2\x96\x81<s>\xF0\x9F\x98", text.substr(0, 256)};
  for (const std::string_view sample : samples) {
    const std::vector<int32_t> ids = tokenizer.Encode(sample);
    for (const int32_t id : ids) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    }
    if (!duo::IsValidUtf8(tokenizer.Decode(ids))) std::abort();
  }
  return 0;
}
