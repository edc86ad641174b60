#include "server/worker_threads.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

namespace duo {

WorkerThreads::~WorkerThreads() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  // A thread that ends moves itself to ended_.
  {
    MutexLock lock(&mutex_);
    wake_.wait(lock.native(), [this]() DUO_REQUIRES(mutex_) { return threads_.empty(); });
  }
  JoinEnded();
}

int WorkerThreads::Start(int n) {
  MutexLock lock(&mutex_);
  n_kept_ = std::max(n_kept_, static_cast<size_t>(std::max(n, 0)));
  while (threads_.size() < n_kept_ && StartOne()) {
  }
  n_kept_ = std::min(n_kept_, threads_.size());
  return static_cast<int>(n_kept_);
}

bool WorkerThreads::Run(std::function<void()> task) {
  JoinEnded();
  {
    MutexLock lock(&mutex_);
    if (tasks_.size() >= n_idle_ && !StartOne()) return false;
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  return true;
}

std::future<void> WorkerThreads::Begin(std::function<void()> task) {
  const auto done = std::make_shared<std::promise<void>>();
  std::future<void> future = done->get_future();
  const bool runs = Run([done, task = std::move(task)] {
    task();
    done->set_value();
  });
  return runs ? std::move(future) : std::future<void>();
}

void WorkerThreads::RunLater(std::function<void()> task) {
  {
    MutexLock lock(&mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

bool WorkerThreads::StartOne() {
  if (std::ssize(threads_) >= max_threads_) return false;
  threads_.emplace_back();
  const auto self = std::prev(threads_.end());
  try {
    *self = std::thread([this, self] { Work(self); });
  } catch (const std::system_error&) {
    threads_.erase(self);
    return false;
  } catch (const std::bad_alloc&) {
    threads_.erase(self);
    return false;
  }
  ++n_idle_;
  return true;
}

void WorkerThreads::Work(Threads::iterator self) {
  MutexLock lock(&mutex_);
  for (;;) {
    wake_.wait(lock.native(),
               [this]() DUO_REQUIRES(mutex_) { return !tasks_.empty() || stop_ || threads_.size() > n_kept_; });
    if (tasks_.empty()) break;
    std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    --n_idle_;
    lock.Unlock();
    task();
    task = nullptr;
    lock.Lock();
    ++n_idle_;
  }
  --n_idle_;
  ended_.splice(ended_.end(), threads_, self);
  if (stop_) wake_.notify_all();
}

void WorkerThreads::JoinEnded() {
  Threads ended;
  {
    MutexLock lock(&mutex_);
    ended.swap(ended_);
  }
  for (std::thread& thread : ended) thread.join();
}

}  // namespace duo
