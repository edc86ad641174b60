#include "server/job.h"

#include <chrono>
#include <utility>

namespace duo {

Job::News Job::Take(double seconds) {
  MutexLock lock(&mutex_);
  changed_.wait_for(lock.native(), std::chrono::duration<double>(seconds),
                    [&]() DUO_REQUIRES(mutex_) { return has_news_ || news_.finished; });
  has_news_ = false;
  News taken = std::move(news_);
  news_ = News();
  news_.prompt_done = taken.prompt_done;
  news_.finished = taken.finished;
  news_.status = taken.status;
  news_.stats = taken.stats;
  return taken;
}

void Job::ReportPrompt(int64_t n_done, std::vector<std::optional<LogProbs>> log_probs) {
  MutexLock lock(&mutex_);
  news_.prompt_done = n_done;
  for (auto& entry : log_probs) news_.prompt_log_probs.push_back(std::move(entry));
  has_news_ = true;
  changed_.notify_all();
}

void Job::ReportToken(JobToken token) {
  MutexLock lock(&mutex_);
  news_.tokens.push_back(std::move(token));
  has_news_ = true;
  changed_.notify_all();
}

void Job::Finish(const Status& status, const JobStats& stats, std::string rest) {
  MutexLock lock(&mutex_);
  news_.finished = true;
  news_.status = status;
  news_.stats = stats;
  news_.rest = std::move(rest);
  has_news_ = true;
  changed_.notify_all();
}

}  // namespace duo
