// Reads server-sent events from the bytes of a stream.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace duo::cli {

/// The bytes may be split anywhere. Comments and fields other than `data` are ignored.
class SseReader {
 public:
  /// Takes the next bytes of the stream. Returns the data of the events that they complete, in order.
  std::vector<std::string> Push(std::string_view bytes) {
    std::vector<std::string> events;
    for (const char c : bytes) {
      if (c != '\n') {
        line_ += c;
        continue;
      }
      if (!line_.empty() && line_.back() == '\r') line_.pop_back();
      constexpr std::string_view kData = "data:";
      if (line_.empty() && has_data_) {
        events.push_back(std::move(data_));
        data_.clear();
        has_data_ = false;
      } else if (line_.compare(0, kData.size(), kData) == 0) {
        if (has_data_) data_ += '\n';
        const size_t begin =
            line_.size() > kData.size() && line_[kData.size()] == ' ' ? kData.size() + 1 : kData.size();
        data_ += line_.substr(begin);
        has_data_ = true;
      }
      line_.clear();
    }
    return events;
  }

 private:
  std::string line_, data_;
  bool has_data_ = false;
};

}  // namespace duo::cli
