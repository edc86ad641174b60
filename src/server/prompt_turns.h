// Decides which of the prompts that are being read gets the next chunk.
//
// The prompt with the fewest tokens left goes first. It is answered soon, and the long ones lose little by it. This
// rule alone would starve a long prompt beside a stream of short ones. So every kOldestEvery-th turn belongs to the
// prompt that has gone longest without a turn. Two guarantees follow.
//   1. The prompt with the fewest tokens left waits for at most one chunk of another prompt, since two turns of the
//      second kind never follow one another.
//   2. While n prompts are being read, each of them gets a chunk in any kOldestEvery * n consecutive turns. Prompts may
//      come and go: a prompt that comes later counts as served later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace duo {

/// A prompt that is being read.
struct UnreadPrompt {
  int64_t n_left = 0;     // tokens still to be read, >= 1
  int64_t last_turn = 0;  // its last turn; before its first turn, the one in which it came
};

constexpr int64_t kOldestEvery = 4;

/// The index of the prompt that gets turn `turn` = 0, 1, ... The first of several equals gets it. `prompts` must not be
/// empty.
size_t PromptOfTurn(int64_t turn, std::span<const UnreadPrompt> prompts);

}  // namespace duo
