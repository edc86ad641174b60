#include "cuda_on_host/fibers.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#ifdef CUDA_ON_HOST_SANITIZED
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_on_host {
namespace {

constexpr size_t kStackBytes = size_t{128} << 10;

/// A flow of control with a stack of its own. After the first entry, the compiler's setjmp is enough to switch. It is
/// far faster than swapcontext, which asks the kernel for signal masks. The library's longjmp makes AddressSanitizer
/// forget the frames of the stack that is left, but these frames live on.
struct Fiber {
  ucontext_t context;
  void* jump[5];
  bool begun = false;
  const void* stack = nullptr;  // its lowest address
  size_t stack_bytes = 0;
  void* kept = nullptr;  // AddressSanitizer's, while the fiber does not run
};

// AddressSanitizer is told of every switch: before it, and after it on the other stack.
#ifdef CUDA_ON_HOST_SANITIZED
void BeforeSwitch(Fiber* from, const Fiber& to) {
  __sanitizer_start_switch_fiber(&from->kept, to.stack, to.stack_bytes);
}
void AfterSwitch(const Fiber& to, Fiber* from) {
  __sanitizer_finish_switch_fiber(to.kept, &from->stack, &from->stack_bytes);
}
#else
void BeforeSwitch(Fiber*, const Fiber&) {}
void AfterSwitch(const Fiber&, Fiber*) {}
#endif

[[noreturn, gnu::noinline, gnu::no_sanitize_address]] void Jump(Fiber* to) { __builtin_longjmp(to->jump, 1); }

[[gnu::noinline, gnu::no_sanitize_address]] void Switch(Fiber* from, Fiber* to) {
  BeforeSwitch(from, *to);
  if (__builtin_setjmp(from->jump) == 0) {
    if (to->begun) Jump(to);
    to->begun = true;
    setcontext(&to->context);
  }
  AfterSwitch(*from, to);
}

enum class State : uint8_t { kReady, kWaitsForWarp, kWaitsForBlock, kEnded };

struct PendingCopy {
  void* to;
  const void* from;
  size_t bytes;
  int group;
};

struct Thread {
  Fiber fiber;
  ThreadView view;
  bool made = false;
  State state = State::kReady;
  int index = 0;  // in the block
  unsigned n_exchanges = 0;
  int copy_group = 0;
  std::vector<PendingCopy> copies;
};

struct Warp {
  alignas(16) uint8_t slots[2][kWarpSize * kExchangeBytes];
};

class Block {
 public:
  Block() : threads_(kMaxThreads), warps_(kMaxThreads / kWarpSize) {
    stacks_ = static_cast<uint8_t*>(mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks_ == MAP_FAILED) Die("no memory for the stacks of kernels' threads");
    main_.begun = true;
  }

  void Run(const ThreadView& view, size_t shared_bytes, const std::function<void()>& body);
  void Wait(State state) {
    Thread* thread = running_;
    thread->state = state;
    Switch(&thread->fiber, &main_);
  }
  Thread* running() const { return running_; }
  Warp& warp() { return warps_[running_->index / kWarpSize]; }
  uint8_t* shared() const { return shared_; }
  void set_schedule(Schedule schedule) { schedule_ = schedule; }

 private:
  static void Enter();
  void Begin(Thread* thread);
  /// Runs the threads that are ready. Returns whether any ran.
  bool RunReady();
  bool OpenBarriers();

  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> order_;
  std::unique_ptr<uint8_t[]> shared_memory_;
  uint8_t* shared_ = nullptr;
  uint8_t* stacks_;
  int n_ = 0, n_ended_ = 0;
  Fiber main_;
  Thread* running_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  Schedule schedule_ = Schedule::kAscending;
  std::mt19937 random_{1};
};

Block& TheBlock() {
  static Block* const block = new Block;  // never freed: its stacks live as long as the program
  return *block;
}

void Block::Enter() {
  Block& block = TheBlock();
  AfterSwitch(block.running_->fiber, &block.main_);
  while (true) {  // one turn per block
    (*block.body_)();
    block.Wait(State::kEnded);
  }
}

void Block::Begin(Thread* thread) {
  if (!thread->made) {
    thread->made = true;
    getcontext(&thread->fiber.context);
    thread->fiber.context.uc_stack.ss_sp = stacks_ + static_cast<size_t>(thread->index) * kStackBytes;
    thread->fiber.context.uc_stack.ss_size = kStackBytes;
    thread->fiber.stack = thread->fiber.context.uc_stack.ss_sp;
    thread->fiber.stack_bytes = kStackBytes;
    thread->fiber.context.uc_link = nullptr;
    makecontext(&thread->fiber.context, &Block::Enter, 0);
  }
  thread->state = State::kReady;
  thread->n_exchanges = 0;
  thread->copy_group = 0;
  thread->copies.clear();
}

void Block::Run(const ThreadView& view, size_t shared_bytes, const std::function<void()>& body) {
  n_ = static_cast<int>(view.block_size.x * view.block_size.y * view.block_size.z);
  if (n_ < 1 || n_ > kMaxThreads) Die("a block has 1 to 1024 threads");
  body_ = &body;
  n_ended_ = 0;
  // Allocated for every block, so that a sanitizer sees accesses past its end.
  shared_memory_ = std::make_unique<uint8_t[]>(shared_bytes + 128);
  shared_ = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(shared_memory_.get()) + 127) / 128 * 128);
  std::memset(shared_, 0xff, shared_bytes);
  order_.resize(n_);
  std::iota(order_.begin(), order_.end(), 0);
  if (schedule_ == Schedule::kDescending) std::reverse(order_.begin(), order_.end());
  for (int i = 0; i < n_; ++i) {
    Thread& thread = threads_[i];
    thread.index = i;
    thread.view = view;
    const auto u = static_cast<unsigned>(i);
    thread.view.thread = {u % view.block_size.x, u / view.block_size.x % view.block_size.y,
                          u / (view.block_size.x * view.block_size.y)};
    Begin(&thread);
  }
  while (true) {
    if (schedule_ == Schedule::kShuffled) std::shuffle(order_.begin(), order_.end(), random_);
    const bool ran = RunReady();
    if (n_ended_ == n_) break;
    const bool opened = OpenBarriers();
    if (!ran && !opened) Die("threads of a block wait for different things");
  }
  shared_memory_.reset();
}

bool Block::RunReady() {
  bool any = false;
  for (const int i : order_) {
    Thread& thread = threads_[i];
    if (thread.state != State::kReady) continue;
    running_ = &thread;
    Switch(&main_, &thread.fiber);
    running_ = nullptr;
    n_ended_ += thread.state == State::kEnded ? 1 : 0;
    any = true;
  }
  return any;
}

bool Block::OpenBarriers() {
  bool opened = false;
  for (int begin = 0; begin < n_; begin += kWarpSize) {
    const auto first = threads_.begin() + begin, last = threads_.begin() + std::min(n_, begin + kWarpSize);
    const auto n_waiting = std::count_if(first, last, [](const Thread& t) { return t.state == State::kWaitsForWarp; });
    if (n_waiting != last - first) continue;
    std::for_each(first, last, [](Thread& t) { t.state = State::kReady; });
    opened = true;
  }
  // Threads that have ended count as arrived.
  const auto last = threads_.begin() + n_;
  const bool all = std::all_of(threads_.begin(), last, [](const Thread& t) {
    return t.state == State::kWaitsForBlock || t.state == State::kEnded;
  });
  if (!all) return opened;
  std::for_each(threads_.begin(), last, [&](Thread& t) {
    if (t.state != State::kWaitsForBlock) return;
    t.state = State::kReady;
    opened = true;
  });
  return opened;
}

Thread* Running() {
  Thread* thread = TheBlock().running();
  if (thread == nullptr) Die("an operation of kernels outside of a kernel");
  return thread;
}

}  // namespace

void Die(const char* what) {
  std::fprintf(stderr, "CUDA on the host: %s\n", what);
  std::abort();
}

void CheckAligned(const void* data, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(data) % bytes != 0) Die("an address is not aligned");
}

const ThreadView& ThisThread() { return Running()->view; }
int Lane() { return Running()->index % kWarpSize; }
uint8_t* SharedMemory() { return TheBlock().shared(); }
bool InKernel() { return TheBlock().running() != nullptr; }
void SetSchedule(Schedule schedule) { TheBlock().set_schedule(schedule); }
void WaitForBlock() { TheBlock().Wait(State::kWaitsForBlock); }
void WaitForWarp() { TheBlock().Wait(State::kWaitsForWarp); }

Exchange ExchangeInWarp(const void* mine, size_t bytes) {
  if (bytes > kExchangeBytes) Die("an exchange of more bytes than it can take");
  Thread* thread = Running();
  uint8_t* slots = TheBlock().warp().slots[thread->n_exchanges++ % 2];
  std::memcpy(slots + static_cast<size_t>(thread->index % kWarpSize) * kExchangeBytes, mine, bytes);
  WaitForWarp();
  return {slots};
}

void CopyAsync(void* to, const void* from, size_t bytes) {
  Thread* thread = Running();
  thread->copies.push_back({to, from, bytes, thread->copy_group});
}

void CommitCopies() { ++Running()->copy_group; }

void WaitForCopies(int n_left) {
  Thread* thread = Running();
  const int before = thread->copy_group - n_left;
  std::erase_if(thread->copies, [&](const PendingCopy& copy) {
    if (copy.group >= before) return false;
    std::memcpy(copy.to, copy.from, copy.bytes);
    return true;
  });
}

void RunGrid(const Dim& grid, const Dim& block, size_t shared_bytes, const std::function<void()>& body) {
  ThreadView view;
  view.grid_size = grid;
  view.block_size = block;
  for (view.block.z = 0; view.block.z < grid.z; ++view.block.z) {
    for (view.block.y = 0; view.block.y < grid.y; ++view.block.y) {
      for (view.block.x = 0; view.block.x < grid.x; ++view.block.x) TheBlock().Run(view, shared_bytes, body);
    }
  }
}

}  // namespace cuda_on_host
