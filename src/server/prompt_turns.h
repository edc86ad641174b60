// Decides which of the prompts that are being read gets the next chunk.
//
// Shortest first: a prompt with little left to read is answered soon, and the long ones lose little by it. This alone
// would starve a long prompt beside a stream of short ones, so every kOldestEvery-th turn belongs to the prompt that
// has gone longest without one. This guarantees:
//   - The prompt with the fewest tokens left waits for at most one chunk of another prompt, since no two turns in a row
//     are of the second kind.
//   - With n prompts being read, each of them gets a chunk in any kOldestEvery * n turns in a row, whatever comes and
//     goes beside it: a prompt that comes later has been served later.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace duo {

/// A prompt that is being read.
struct UnreadPrompt {
  int64_t n_left = 0;     // tokens still to be read, >= 1
  int64_t last_turn = 0;  // the last one it had; before its first, the one in which it came
};

constexpr int64_t kOldestEvery = 4;

/// The index of the prompt that has turn `turn`, 0, 1, ... Among equals the first. `prompts` is not empty.
size_t PromptOfTurn(int64_t turn, std::span<const UnreadPrompt> prompts);

}  // namespace duo
