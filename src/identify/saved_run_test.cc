// Tests of saved runs: their numbers come back bit for bit, and an impossible value is refused with its key.
#include "identify/saved_run.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace duo {
namespace {

SavedRun SomeRun() {
  SavedRun run;
  run.state.step = 7;
  run.state.reg_weight = 0.1 + 0.2;
  run.state.gates = {0.0, 1.0, 1.0 / 3};
  run.state.first = {-1e-300, 2.5, 0};
  run.state.second = {0, 1e-17, 3};
  run.log_bytes = 12345;
  return run;
}

TEST(SavedRun, ComesBackBitForBit) {
  const SavedRun run = SomeRun();
  const Json json = Json::parse(JsonText(SavedRunJson(run)));
  const auto read = SavedRunOf(json, 3, 7, "f");
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->state.step, 7);
  EXPECT_EQ(read->state.reg_weight, run.state.reg_weight);
  EXPECT_EQ(read->state.gates, run.state.gates);
  EXPECT_EQ(read->state.first, run.state.first);
  EXPECT_EQ(read->state.second, run.state.second);
  EXPECT_EQ(read->log_bytes, 12345);
}

TEST(SavedRun, RefusesWhatNoRunHas) {
  const auto status = [](const char* key, const Json& value) {
    Json json = SavedRunJson(SomeRun());
    json[key] = value;
    const Status found = SavedRunOf(json, 3, 7, "f").status();
    if (!found.ok()) {
      EXPECT_EQ(found.code(), StatusCode::kCorrupt) << key;
      EXPECT_EQ(found.message().rfind("f: ", 0), 0u) << found.message();
      EXPECT_NE(found.message().find(key), std::string::npos) << found.message();
    }
    return found.ok();
  };
  EXPECT_TRUE(status("step", 0));
  EXPECT_FALSE(status("step", -1));
  EXPECT_FALSE(status("step", 8));
  EXPECT_FALSE(status("step", "x"));
  EXPECT_TRUE(status("log_bytes", 0));
  EXPECT_FALSE(status("log_bytes", -1));
  EXPECT_TRUE(status("reg_weight", 0));
  EXPECT_FALSE(status("reg_weight", -0.001));
  EXPECT_FALSE(status("reg_weight", Json()));
  for (const char* list : {"gates", "first", "second"}) {
    EXPECT_TRUE(status(list, {0, 0, 0}));
    EXPECT_TRUE(status(list, {1, 1, 1}));
    EXPECT_FALSE(status(list, {0, 0}));
    EXPECT_FALSE(status(list, {0, 0, 0, 0}));
    EXPECT_FALSE(status(list, {0, 0, "0"}));
    EXPECT_FALSE(status(list, 0));
    Json missing = SavedRunJson(SomeRun());
    missing.erase(list);
    EXPECT_FALSE(SavedRunOf(missing, 3, 7, "f").ok()) << list;
  }
  EXPECT_FALSE(status("gates", {0, 0, 1.001}));
  EXPECT_FALSE(status("gates", {0, -0.001, 0}));
  EXPECT_TRUE(status("first", {-5, 0, 5}));
  EXPECT_FALSE(status("second", {0, 0, -0.001}));
  EXPECT_FALSE(SavedRunOf(Json::array(), 3, 7, "f").ok());
}

}  // namespace
}  // namespace duo
