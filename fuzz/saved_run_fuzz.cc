// Parses the state of an unfinished `duo identify` run.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "identify/saved_run.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kGates = 4;
  constexpr int64_t kSteps = 100;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const duo::Result<duo::Json> json = duo::ParseJson(text, "state.json");
  if (!json.ok()) return 0;
  const duo::Result<duo::SavedRun> run = duo::SavedRunOf(*json, kGates, kSteps, "state.json");
  if (run.ok() && (run->state.gates.size() != kGates || run->state.step > kSteps)) __builtin_trap();
  return 0;
}
