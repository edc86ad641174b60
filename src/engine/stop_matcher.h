// Holds back text that might be the beginning of a stop string.
#pragma once

#include <string>
#include <vector>

namespace duo {

/// Text goes in as it is decoded and comes out once it is certain not to belong to a stop string.
class StopMatcher {
 public:
  /// Empty stop strings are ignored.
  explicit StopMatcher(const std::vector<std::string>& stops);

  /// The text that is certain after this piece. Once a stop string is complete, stopped() is true and nothing from its
  /// first character on ever comes out.
  std::string Push(const std::string& piece);
  /// What is held back, when the text ends otherwise.
  std::string Flush();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace duo
