#include "server/sequence_lease.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "server/serving_for_test.h"
#include "server/unavailable.h"

namespace duo {
namespace {

const SessionId kTale = {.owner = "", .name = "tale"};

class SequenceLeaseTest : public SchedulerTest {
 protected:
  void SetUp() override {
    SchedulerTest::SetUp();
    Start();
  }
  JobRequest TaleRequest() const {
    JobRequest request = Request(Prompt(1, 64), 1);
    request.session_id = kTale;
    return request;
  }
  bool TaleIsBusy() const {
    const std::vector<NamedSequence> named = scheduler_->Named();
    return named.size() == 1 && named[0].id == kTale && named[0].busy;
  }
};

TEST_F(SequenceLeaseTest, ASessionIsBusyWhileItsLeaseExists) {
  Finish(Submit(TaleRequest()));
  EXPECT_FALSE(TaleIsBusy());
  {
    SequenceLease lease = scheduler_->CheckOut(kTale).value();
    EXPECT_TRUE(TaleIsBusy());
    EXPECT_EQ(WhyUnavailable(scheduler_->CheckOut(kTale).status()), Unavailable::kSessionBusy);
    std::optional<SequenceLease> moved(std::move(lease));
    EXPECT_EQ((*moved)->session->len(), 64);
    EXPECT_TRUE(TaleIsBusy());
    moved.reset();
    EXPECT_FALSE(TaleIsBusy()) << "a lease that was moved from holds nothing";
  }
  EXPECT_TRUE(scheduler_->HasNamed(kTale));
  EXPECT_TRUE(scheduler_->CheckOut(kTale).ok());
}

TEST_F(SequenceLeaseTest, RequestsWaitForTheLeaseOfTheirSessionAndOthersDoNotReadIt) {
  Finish(Submit(TaleRequest()));
  std::optional<SequenceLease> lease(scheduler_->CheckOut(kTale).value());
  const std::shared_ptr<Job> waits = Submit(TaleRequest());
  EXPECT_EQ(Finish(Submit(Request(Prompt(1, 64), 1))).last.stats.n_cached, 0);
  EXPECT_EQ(scheduler_->n_waiting(), 1);
  lease.reset();
  EXPECT_TRUE(Finish(waits).last.status.ok());
}

TEST_F(SequenceLeaseTest, ARestoreThatFailsLeavesNothing) {
  {
    const SequenceLease lease = scheduler_->Reserve(kTale, {}, options_, 100).value();
    EXPECT_TRUE(TaleIsBusy());
    EXPECT_GT(scheduler_->Snapshot({.owner = "", .sees_all = true}).reserved_bytes, 0u);
  }
  EXPECT_FALSE(scheduler_->HasNamed(kTale));
  EXPECT_EQ(scheduler_->Snapshot({.owner = "", .sees_all = true}).reserved_bytes, 0u);
}

TEST_F(SequenceLeaseTest, ARestoredSessionStays) {
  {
    const SequenceLease lease = scheduler_->Reserve(kTale, {}, options_, 100).value();
    lease->session = std::make_unique<Session>(Session::Create(*model_, options_, &*workspace_).value());
  }
  EXPECT_TRUE(scheduler_->HasNamed(kTale));
  EXPECT_FALSE(TaleIsBusy());
}

TEST_F(SequenceLeaseTest, ADroppedSequenceIsGone) {
  Finish(Submit(TaleRequest()));
  SequenceLease lease = scheduler_->CheckOut(kTale).value();
  lease.Drop();
  EXPECT_FALSE(scheduler_->HasNamed(kTale));
}

// Leases take only the pool's mutex, so they begin and end in the middle of the scheduler's steps.
TEST_F(SequenceLeaseTest, LeasesComeAndGoWhileRequestsRun) {
  std::atomic<bool> stop = false;
  std::atomic<int> n_leases = 0, n_empty = 0;
  std::vector<std::thread> threads;
  for (const bool drops : {false, true}) {
    threads.emplace_back([&, drops] {
      while (!stop) {
        Result<SequenceLease> lease = scheduler_->CheckOut(kTale);
        if (lease.ok()) {
          n_empty += (*lease)->session->len() == 0 ? 1 : 0;
          if (drops) lease->Drop();
          ++n_leases;
        }
        std::this_thread::yield();
      }
    });
  }
  for (int i = 0; i < 40 || n_leases == 0; ++i) {
    EXPECT_TRUE(Finish(Submit(TaleRequest())).last.status.ok());
    EXPECT_LE(scheduler_->Named().size(), 1u);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(n_empty, 0);
  EXPECT_EQ(scheduler_->Snapshot({.owner = "", .sees_all = true}).reserved_bytes, 0u);
}

}  // namespace
}  // namespace duo
