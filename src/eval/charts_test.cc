// Tests of the data of pictures: every number of a result appears where a reader looks for it.
#include "eval/charts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace duo {
namespace {

using testing::HasSubstr;
using testing::Not;

Chart ChartFor(const Json& result) {
  auto chart = ChartOf(result, "r.json");
  EXPECT_TRUE(chart.ok()) << chart.status().message();
  return chart.ok() ? *chart : Chart{};
}

Json Niah() {
  return {{"eval", "niah"},
          {"lengths", {512, 2048, 3000}},
          {"depths", {0, 0.25}},
          {"modes",
           {{"duo", {{"mean", 0.5}, {"table", {{0.1, 0.2, 0.3}, {0.4, 0.5, 0.6}}}}},
            {"full", {{"mean", 0.875}, {"table", {{1, 1, 1}, {0.75, 0.5, 1}}}}}}}};
}

TEST(Charts, NeedlesAreAMapForEachMode) {
  const Chart chart = ChartFor(Niah());
  // Full attention first; columns are lengths, rows are depths.
  EXPECT_THAT(chart.script, HasSubstr("$m0 << EOD\n0 0 1.0000\n1 0 1.0000\n2 0 1.0000\n0 1 0.7500\n1 1 0.5000\n"
                                      "2 1 1.0000\nEOD\n"));
  EXPECT_THAT(chart.script, HasSubstr("$m1 << EOD\n0 0 0.1000\n1 0 0.2000\n2 0 0.3000\n0 1 0.4000\n"));
  EXPECT_THAT(chart.script, HasSubstr("set xrange [-0.5:2.5]"));
  EXPECT_THAT(chart.script, HasSubstr("set yrange [1.5:-0.5]")) << "the beginning of the text is at the top";
  EXPECT_THAT(chart.script, HasSubstr("512"));
  EXPECT_THAT(chart.script, HasSubstr("2k"));
  EXPECT_THAT(chart.script, HasSubstr("3k"));
  EXPECT_THAT(chart.script, HasSubstr("25 %%")) << "gnuplot treats a per cent sign as a format";
  EXPECT_THAT(chart.script, HasSubstr("layout 1,2"));
  EXPECT_THAT(chart.script, HasSubstr("full attention, mean 0.875"));
  EXPECT_THAT(chart.script, HasSubstr("duo attention, mean 0.500"));
  EXPECT_LT(chart.script.find("full attention"), chart.script.find("duo attention"));
  Json ends = Niah();
  ends["depths"] = {0, 1};
  EXPECT_THAT(ChartFor(ends).script, HasSubstr("100 %%"));
}

TEST(Charts, GrowWithTheirTableUpToALimit) {
  const auto size = [](size_t n_lengths, size_t n_depths) {
    const Json result = {
        {"eval", "niah"},
        {"lengths", std::vector<int>(n_lengths, 512)},
        {"depths", std::vector<double>(n_depths, 0.5)},
        {"modes",
         {{"full",
           {{"mean", 1}, {"table", std::vector<std::vector<int>>(n_depths, std::vector<int>(n_lengths, 1))}}}}}};
    const Chart chart = ChartFor(result);
    return std::pair(chart.width, chart.height);
  };
  EXPECT_EQ(size(1, 1), std::pair(480, 260));
  EXPECT_EQ(size(100, 100), std::pair(2400, 1600));
  const auto middle = size(20, 20), more = size(21, 21);
  EXPECT_GE(middle.first / 20, 56) << "room for a number in every cell";
  EXPECT_GE(middle.second / 20, 34);
  EXPECT_GT(more.first, middle.first);
  EXPECT_GT(more.second, middle.second);
}

TEST(Charts, TablesMustFitTheirGrid) {
  const auto failure = [](auto change) {
    Json result = Niah();
    change(result);
    const Status status = ChartOf(result, "r.json").status();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt);
    return status.message();
  };
  EXPECT_THAT(failure([](Json& r) { r["modes"]["duo"]["table"].erase(0); }), HasSubstr("a row per depth"));
  EXPECT_THAT(failure([](Json& r) { r["modes"]["duo"]["table"] = 5; }), HasSubstr("a row per depth"));
  EXPECT_THAT(failure([](Json& r) { r["modes"]["duo"]["table"][1].erase(0); }), HasSubstr("a number per length"));
  EXPECT_THAT(failure([](Json& r) { r["modes"]["duo"]["table"][1] = 5; }), HasSubstr("a number per length"));
  EXPECT_THAT(failure([](Json& r) { r["modes"]["duo"]["table"][1][2] = "x"; }), HasSubstr("numbers"));
  EXPECT_THAT(failure([](Json& r) { r["modes"]["duo"].erase("mean"); }), HasSubstr("mean"));
  EXPECT_THAT(failure([](Json& r) { r["modes"] = Json::object(); }), HasSubstr("modes"));
  EXPECT_THAT(failure([](Json& r) { r["modes"] = 5; }), HasSubstr("modes"));
  EXPECT_THAT(failure([](Json& r) { r["depths"][0] = "x"; }), HasSubstr("depths"));
}

TEST(Charts, DivergenceStandsInTheMiddleOfItsPositions) {
  const Json result = {{"eval", "perplexity"},
                       {"buckets",
                        {{{"begin", 0}, {"end", 128}, {"kld", 0.5}, {"top1", 0.75}},
                         {{"begin", 128}, {"end", 256}, {"kld", 0.125}, {"top1", 1}}}}};
  EXPECT_THAT(ChartFor(result).script, HasSubstr("$d << EOD\n64.5 0.5 75\n192 0.125 100\nEOD\n"));
  EXPECT_EQ(ChartOf({{"eval", "perplexity"}, {"buckets", Json::array()}}, "r").status().code(),
            StatusCode::kInvalidArgument);
}

TEST(Charts, TradeOffsAreShares) {
  const Json result = {{"eval", "certify"},
                       {"full_kv_bytes", 2000},
                       {"rows",
                        {{{"sparsity", 0.5}, {"kld", 0.25}, {"niah", 0.75}, {"kv_bytes", 1000}},
                         {{"sparsity", 0.75}, {"kld", 2}, {"niah", 0}, {"kv_bytes", 600}}}}};
  const std::string script = ChartFor(result).script;
  EXPECT_THAT(script, HasSubstr("$d << EOD\n50 0.25 75 1000\n75 2 0 600\nEOD\n"));
  EXPECT_THAT(script, HasSubstr("100 * $4 / 2000"));
  EXPECT_EQ(ChartOf({{"eval", "certify"}, {"rows", Json::array()}}, "r").status().code(), StatusCode::kCorrupt);
}

TEST(Charts, TasksAreBarsSideBySide) {
  const Json result = {
      {"eval", "ruler"},
      {"tasks", {{"cwe", {{"n", 3}, {"full", 50}, {"duo", 40.5}}}, {"vt", {{"n", 3}, {"full", 60}, {"duo", 70}}}}}};
  const Chart chart = ChartFor(result);
  EXPECT_THAT(chart.script, HasSubstr("$d << EOD\n0 50 40.5\n1 60 70\nEOD\n"));
  EXPECT_THAT(chart.script, HasSubstr("($1 + -0.190):2"));
  EXPECT_THAT(chart.script, HasSubstr("($1 + 0.190):3"));
  EXPECT_THAT(chart.script, HasSubstr("set xrange [-0.6:1.6]"));
  EXPECT_LT(chart.script.find("cwe"), chart.script.find("vt"));
  EXPECT_THAT(chart.script, Not(HasSubstr("title 'n'")));
  const Json alone = {{"eval", "longbench"}, {"tasks", {{"a", {{"n", 1}, {"full", 5}}}}}};
  EXPECT_THAT(ChartFor(alone).script, HasSubstr("($1 + 0.000):2")) << "a single bar is centred at its name";
  EXPECT_EQ(ChartOf({{"eval", "ruler"}, {"tasks", Json::object()}}, "r").status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(ChartOf({{"eval", "ruler"}, {"tasks", {{"vt", 3}}}}, "r").status().code(), StatusCode::kCorrupt);
}

TEST(Charts, FullAttentionComesFirst) {
  EXPECT_EQ(ModeNames({{"a", 1}, {"full", 2}, {"z", 3}}), (std::vector<std::string>{"full", "a", "z"}));
  EXPECT_EQ(ModeNames({{"b", 1}, {"a", 2}}), (std::vector<std::string>{"a", "b"}));
}

}  // namespace
}  // namespace duo
