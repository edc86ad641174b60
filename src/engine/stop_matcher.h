// Finds stop strings in text that arrives in pieces. Holds back text that might be the beginning of a stop string.
#pragma once

#include <string>
#include <vector>

namespace duo {

/// Takes text as it is decoded, and returns it once it can no longer be part of a stop string.
class StopMatcher {
 public:
  /// Empty stop strings are ignored.
  explicit StopMatcher(const std::vector<std::string>& stops);

  /// Adds a piece and returns the text that became certain. Once a stop string is complete, stopped() is true, and
  /// neither the stop string nor any text after it is returned.
  std::string Push(const std::string& piece);
  /// Returns the text that is held back. Call it when the text ends without a stop string.
  std::string Flush();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace duo
