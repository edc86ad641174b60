// Bounds on what tokenizer files may ask for. Each is several times what the largest published tokenizers use. A file
// beyond a bound is refused with an error before anything is allocated for it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duo::text_limits {

inline constexpr size_t kMaxTokenizerJsonBytes = size_t{64} << 20;   // Gemma: 33 MB, Llama-3: 9-17 MB
inline constexpr size_t kMaxTokenizerConfigBytes = size_t{8} << 20;  // Llama-3: 50 kB
inline constexpr size_t kMaxChatTemplateBytes = size_t{1} << 20;
inline constexpr size_t kMaxSentencePieceBytes = size_t{64} << 20;   // Llama-2: 0.5 MB, Gemma: 4 MB
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 21) - 1;       // Gemma: 262,144 tokens
inline constexpr size_t kMaxMerges = size_t{1} << 22;                // Gemma: 580,604
inline constexpr size_t kMaxAddedTokens = size_t{1} << 16;           // Gemma: 6,415
inline constexpr size_t kMaxAddedTokenBytes = 1024;                  // per token, before and after normalisation
inline constexpr size_t kMaxAddedTokenTotalBytes = size_t{4} << 20;  // for all tokens: each byte costs a search node
inline constexpr size_t kMaxRegexBytes = size_t{1} << 14;            // o200k: 250 bytes
inline constexpr size_t kMaxSteps = 64;             // normalizers, pre-tokenisers or decoders in a Sequence
inline constexpr size_t kMaxReplacementBytes = 64;  // of the text that replaces a match
inline constexpr size_t kMaxGrowth = 1024;          // bytes out per byte in, over all Replace steps
inline constexpr int64_t kMaxStripCount = 1024;

}  // namespace duo::text_limits
