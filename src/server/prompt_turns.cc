#include "server/prompt_turns.h"

#include <algorithm>

namespace duo {

size_t PromptOfTurn(int64_t turn, std::span<const UnreadPrompt> prompts) {
  const bool oldest = turn % kOldestEvery == kOldestEvery - 1;
  const auto found =
      std::min_element(prompts.begin(), prompts.end(), [&](const UnreadPrompt& a, const UnreadPrompt& b) {
        return oldest ? a.last_turn < b.last_turn : a.n_left < b.n_left;
      });
  return found - prompts.begin();
}

}  // namespace duo
