#include "base/thread_team.h"

#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/align.h"
#include "base/check.h"
#include "base/clock.h"

namespace duo {
namespace {

// A pause takes 40 to 140 cycles, so this is 30 to 100 us. That is longer than the time between two regions of a decode
// step (sampling aside), and too short to be a burden.
constexpr int kSpins = 2000;

// A helper judges itself after this much time, spinning included...
constexpr std::chrono::milliseconds kJudgedTime{4};
// ...and pauses when it had no core for more than this share of the time. A neighbour that wakes up for 50 us now and
// then (a connection's thread) costs one per cent. One busy program on a full machine costs a third to a half.
constexpr double kCrowdedShare = 0.2;
constexpr std::chrono::milliseconds kShortestPause{4}, kLongestPause{1000};
constexpr int kPauseFactor = 8;
// Regions with at most this time between them belong to the same decode step.
constexpr std::chrono::milliseconds kCloseTime{1};

// The ticket, from the low bits: next task | number of tasks | threads that may take part. The caller's last increment
// moves `next` one past the number of tasks, so `next` has bits to spare.
constexpr int kNextBits = 28, kTasksBits = 25, kThreadsBits = 11;
static_assert(kNextBits + kTasksBits + kThreadsBits == 64 && kNextBits > kTasksBits);
static_assert(ThreadTeam::kMaxTasks == (int64_t{1} << kTasksBits) - 1);

struct Ticket {
  uint64_t word;
  static Ticket Of(int n_threads, int64_t n_tasks) {
    return {static_cast<uint64_t>(n_threads) << (kNextBits + kTasksBits) | static_cast<uint64_t>(n_tasks) << kNextBits};
  }
  int64_t next() const { return word & ((uint64_t{1} << kNextBits) - 1); }
  int64_t n_tasks() const { return word >> kNextBits & ((uint64_t{1} << kTasksBits) - 1); }
  int n_threads() const { return word >> (kNextBits + kTasksBits); }
};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

std::chrono::nanoseconds ThreadCpuTime() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

bool IsMuch(Clock::duration lost, Clock::duration wanted) {
  return std::chrono::duration<double>(lost) > kCrowdedShare * std::chrono::duration<double>(wanted);
}

/// Whether a helper that wants to run gets a core.
class HelperShare {
 public:
  HelperShare() { Restart(); }
  /// Time that the thread slept voluntarily does not count.
  void AddSleep(Clock::duration slept) { begin_ += slept; }
  void Restart() {
    begin_ = Clock::now();
    cpu_begin_ = ThreadCpuTime();
  }
  /// True once after a stretch of kJudgedTime in which the thread had no core for too long.
  bool IsCrowded() {
    const auto wanted = Clock::now() - begin_;
    if (wanted < kJudgedTime) return false;
    const auto lost = wanted - (ThreadCpuTime() - cpu_begin_);
    Restart();
    if (IsMuch(lost, wanted)) return true;
    next_pause_ = std::max(next_pause_ / kPauseFactor, kShortestPause);
    return false;
  }
  /// How long to pause now. The next pause will be longer.
  std::chrono::milliseconds NextPause() {
    const std::chrono::milliseconds pause = next_pause_;
    next_pause_ = std::min(next_pause_ * kPauseFactor, kLongestPause);
    return pause;
  }

 private:
  Clock::time_point begin_;
  std::chrono::nanoseconds cpu_begin_{};
  std::chrono::milliseconds next_pause_ = kShortestPause;
};

/// Whether the caller gets a core, in regions that follow one another closely. Between regions it may wait for other
/// things, and at the end of a region it may wait for helpers. So lost time alone proves nothing. An involuntary
/// context switch shows that another program took its core.
class CallerShare {
 public:
  /// Called after each region. True once after a stretch of kJudgedTime in which another program had the core for too
  /// long.
  bool IsCrowded(Clock::time_point begin, Clock::time_point end) {
    if (begin - last_end_ > kCloseTime) Restart(begin);
    last_end_ = end;
    if (end - begin_ < kJudgedTime) return false;
    const auto wanted = end - begin_;
    const auto lost = wanted - (ThreadCpuTime() - cpu_begin_);
    const bool put_off = PutOffs() != put_offs_begin_;
    Restart(end);
    return put_off && IsMuch(lost, wanted);
  }

 private:
  static long PutOffs() {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
  }
  void Restart(Clock::time_point begin) {
    begin_ = begin;
    cpu_begin_ = ThreadCpuTime();
    put_offs_begin_ = PutOffs();
  }

  Clock::time_point begin_, last_end_;
  std::chrono::nanoseconds cpu_begin_{};
  long put_offs_begin_ = 0;
};

}  // namespace

class ThreadTeam::Impl {
 public:
  ~Impl() {
    {
      const std::lock_guard lock(away_mutex_);
      stop_.store(true);
    }
    away_.notify_all();
    Wake();
    for (std::thread& helper : helpers_) helper.join();
  }

  void Grow(int n_threads) {
    for (int helper = this->n_threads(); helper < n_threads && !refused_; ++helper) {
      try {
        helpers_.emplace_back([this, helper] { Help(helper); });
      } catch (const std::system_error&) {
        refused_ = true;
      } catch (const std::bad_alloc&) {
        refused_ = true;
      }
    }
  }

  int n_threads() const { return 1 + std::ssize(helpers_); }

  void Run(int n_threads, int64_t n_tasks, const ParallelBody& body) {
    DUO_CHECK(n_tasks <= kMaxTasks, "ParallelFor splits longer regions");
    if (n_away_.load(std::memory_order_relaxed) == std::ssize(helpers_)) {
      for (int64_t task = 0; task < n_tasks; ++task) body(task, 0);
      return;
    }
    const auto begin = Clock::now();
    body_ = &body;
    finished_.store(0, std::memory_order_relaxed);
    ticket_.store(Ticket::Of(n_threads, n_tasks).word, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
      called_.store(begin, std::memory_order_relaxed);
      Wake();
    }
    int64_t own = 0;
    for (;;) {
      const int64_t task = Ticket{ticket_.fetch_add(1, std::memory_order_relaxed)}.next();
      if (task >= n_tasks) break;
      body(task, 0);
      ++own;
    }
    AwaitFinished(n_tasks - own);
    if (caller_.IsCrowded(begin, Clock::now())) send_one_away_.store(true, std::memory_order_relaxed);
  }

 private:
  bool MayTake(Ticket ticket, int helper) const {
    return helper < ticket.n_threads() && ticket.next() < ticket.n_tasks();
  }

  void Wake() {
    wake_.fetch_add(1, std::memory_order_seq_cst);
    wake_.notify_all();
  }

  // Waits until helpers have finished n tasks of this region. Spins for as long as a task of a running helper may take,
  // then sleeps. If a helper is waiting for a core, it can then run on this one.
  void AwaitFinished(uint32_t n) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (finished_.load(std::memory_order_acquire) == n) return;
      Pause();
    }
    for (uint32_t seen; (seen = finished_.load(std::memory_order_seq_cst)) != n;) finished_.wait(seen);
  }

  void Help(int helper) {
    HelperShare share;
    int spins = 0;
    while (!stop_.load(std::memory_order_relaxed)) {
      Ticket ticket{ticket_.load(std::memory_order_acquire)};
      if (MayTake(ticket, helper)) {
        if (!ticket_.compare_exchange_strong(ticket.word, ticket.word + 1, std::memory_order_acq_rel)) continue;
        (*body_)(ticket.next(), helper);
        finished_.fetch_add(1, std::memory_order_seq_cst);
        finished_.notify_one();
        const bool sent = send_one_away_.load(std::memory_order_relaxed) && send_one_away_.exchange(false);
        if (share.IsCrowded() || sent) StayAway(&share);
        spins = 0;
      } else if (++spins < kSpins) {
        Pause();
      } else {
        Sleep(helper, &share);
        spins = 0;
      }
    }
  }

  void Sleep(int helper, HelperShare* share) {
    const auto begin = Clock::now();
    const uint32_t seen = wake_.load(std::memory_order_seq_cst);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    const bool work = MayTake({ticket_.load(std::memory_order_seq_cst)}, helper);
    if (!work && !stop_.load(std::memory_order_seq_cst)) wake_.wait(seen);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    // The time between the call and getting a core is not sleep. If it is long, the helper is of no use.
    share->AddSleep(std::max(called_.load(std::memory_order_relaxed), begin) - begin);
  }

  void StayAway(HelperShare* share) {
    n_away_.fetch_add(1, std::memory_order_relaxed);
    {
      std::unique_lock lock(away_mutex_);
      away_.wait_for(lock, share->NextPause(), [this] { return stop_.load(); });
    }
    n_away_.fetch_sub(1, std::memory_order_relaxed);
    share->Restart();
  }

  // Fields that helpers poll, fields that they write, and fields that seldom change are on separate cache lines.
  alignas(kCacheLineBytes) std::atomic<uint64_t> ticket_{0};
  const ParallelBody* body_ = nullptr;  // of the current region; only a thread that has one of its tasks may read it
  alignas(kCacheLineBytes) std::atomic<uint32_t> finished_{0};  // tasks of the current region that helpers finished
  alignas(kCacheLineBytes) std::atomic<uint32_t> wake_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<Clock::time_point> called_{Clock::time_point()};  // when sleepers were last woken for a region
  std::atomic<int> n_away_{0};
  std::atomic<bool> send_one_away_{false};
  std::atomic<bool> stop_{false};
  std::mutex away_mutex_;
  std::condition_variable away_;
  CallerShare caller_;
  std::vector<std::thread> helpers_;  // helper i is thread i + 1 of a region
  bool refused_ = false;
};

ThreadTeam::ThreadTeam() : impl_(std::make_unique<Impl>()) {}
ThreadTeam::~ThreadTeam() = default;
void ThreadTeam::Grow(int n_threads) { impl_->Grow(n_threads); }
int ThreadTeam::n_threads() const { return impl_->n_threads(); }
void ThreadTeam::Run(int n_threads, int64_t n_tasks, const ParallelBody& body) {
  impl_->Run(std::min(n_threads, impl_->n_threads()), n_tasks, body);
}

}  // namespace duo
