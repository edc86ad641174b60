#include "duo/head_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "base/file.h"
#include "base/strings.h"
#include "base/temp_dir_for_test.h"
#include "heads/gnuplot.h"
#include "heads/pattern_for_test.h"

namespace duo {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(TerminalHeatMap, ShadesMarksAndCounts) {
  const HeadPattern pattern = MakePattern(2, 4, {0.0, 0.3, 0.6, 1.0, -2.0, 7.0, 0.5, 0.2});
  const HeadChoice choice = *ChooseBySparsity(pattern, 0.5);
  EXPECT_EQ(TerminalHeatMap(MakePattern(1, 3, {0, 0, 1})),
            "kv head   0     2\n"
            "layer   0 ░░ ░░ ██\n"
            "gate  ░ 0..0.25  ▒ 0.25..0.5  ▓ 0.5..0.75  █ 0.75..1\n");
  EXPECT_EQ(TerminalHeatMap(pattern, &choice),
            "kv head   0     2\n"
            "layer   0 ░░ ▒▒ ▓▓*██* 2/4\n"
            "layer   1 ░░ ██*▓▓*░░  2/4\n"
            "gate  ░ 0..0.25  ▒ 0.25..0.5  ▓ 0.5..0.75  █ 0.75..1   * retrieval head: 4 of 8, sparsity 0.500\n");
  EXPECT_THAT(TerminalHeatMap(pattern), Not(HasSubstr("*")));
  EXPECT_THAT(TerminalHeatMap(pattern), Not(HasSubstr("\x1b")));
  EXPECT_THAT(TerminalHeatMap(pattern, &choice, HeatMapColor::kAnsi), HasSubstr("\x1b[38;5;208m*\x1b[0m"));
}

TEST(TerminalHeatMap, FitsATerminal) {
  for (const int n_kv_heads : {1, 8, 32, 33, 50, 64, 100}) {
    const HeadPattern pattern = MakePattern(3, n_kv_heads, std::vector<double>(3 * n_kv_heads, 1.0));
    const HeadChoice choice = AllRetrieval(3, n_kv_heads);
    std::istringstream lines(TerminalHeatMap(pattern, &choice));
    for (std::string line; std::getline(lines, line);) EXPECT_LE(CountCharacters(line), 120) << line;
  }
}

TEST(PatternDiff, CountsAndListsTheHeads) {
  const HeadPattern a = MakePattern(2, 2, {1.5, 0.9, 0.1, 0.2});
  const HeadPattern b = MakePattern(2, 2, {1.0, 0.1, 0.9, 0.2});
  const Result<PatternDiff> diff = DiffPatterns(a, b, 0.5);
  ASSERT_TRUE(diff.ok());
  EXPECT_NEAR(diff->mean_abs_difference, 0.4, 1e-12) << "1.5 and 1 are equal once clipped";
  EXPECT_NEAR(diff->max_abs_difference, 0.8, 1e-12);
  EXPECT_NEAR(*diff->rank_correlation, 0.2, 1e-12);  // ranks 3 2 0 1 and 3 0 2 1: 1 - 6*8/(4*15)
  EXPECT_EQ(diff->n_both, 1);
  EXPECT_EQ(diff->n_only_a, 1);
  EXPECT_EQ(diff->n_only_b, 1);
  ASSERT_EQ(diff->differing.size(), 2u);
  EXPECT_EQ(diff->differing[0].layer, 0);
  EXPECT_EQ(diff->differing[0].kv_head, 1);
  EXPECT_TRUE(diff->differing[0].retrieval_in_a);
  EXPECT_EQ(diff->differing[1].layer, 1);
  EXPECT_EQ(diff->differing[1].gate_b, 0.9);
  EXPECT_FALSE(diff->differing[1].retrieval_in_a);
}

TEST(PatternDiff, RankCorrelationWithTies) {
  const HeadPattern a = MakePattern(1, 4, {0.1, 0.2, 0.2, 0.3});
  EXPECT_DOUBLE_EQ(*DiffPatterns(a, a, 0.5)->rank_correlation, 1.0);
  const HeadPattern reversed = MakePattern(1, 4, {0.4, 0.2, 0.2, 0.1});
  EXPECT_DOUBLE_EQ(*DiffPatterns(a, reversed, 0.5)->rank_correlation, -1.0);
  // Ranks 0 1.5 1.5 3 and 0 1 2 3: 4.5 / sqrt(4.5 * 5).
  EXPECT_NEAR(*DiffPatterns(a, MakePattern(1, 4, {0, 0.1, 0.2, 0.3}), 0.5)->rank_correlation, 0.9486832980505138,
              1e-12);
  EXPECT_FALSE(DiffPatterns(a, MakePattern(1, 4, {1, 1, 1, 2}), 0.5)->rank_correlation.has_value());
}

TEST(PatternDiff, RefusesOtherShapes) {
  const Result<PatternDiff> diff = DiffPatterns(MakePattern(1, 2, {1, 1}), MakePattern(2, 1, {1, 1}), 0.5);
  EXPECT_EQ(diff.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(diff.status().message(), HasSubstr("1 layers x 2 kv heads, the second for 2 x 1"));
  EXPECT_FALSE(DiffPatterns(MakePattern(1, 1, {1}), MakePattern(1, 1, {1}), 2).ok());
}

class HeatMapFile : public ::testing::Test {
 protected:
  HeatMapFile() {
    if (const char* path = std::getenv("PATH")) old_path_ = path;
  }
  ~HeatMapFile() override { setenv("PATH", old_path_.c_str(), 1); }
  /// Puts a program before gnuplot on PATH. It saves its script in the file "script" and then runs these commands.
  void ReplaceGnuplot(const std::string& commands) {
    dir_.Write("gnuplot", "#!/bin/sh\ncat >'" + dir_.file("script") + "'\n" + commands + "\n");
    std::filesystem::permissions(dir_.file("gnuplot"), std::filesystem::perms::owner_all);
    setenv("PATH", (dir_.path() + ":" + old_path_).c_str(), 1);
  }
  void NeedGnuplot() {
    if (RunGnuplot("print 1\nset print '-'\nprint 1\n").status().code() == StatusCode::kNotFound) {
      GTEST_SKIP() << "SKIPPED: gnuplot is not installed";
    }
  }
  const TempDir dir_;
  std::string old_path_;
  const HeadPattern pattern_ = MakePattern(2, 3, {0, 0.5, 1, 1, 0.25, 0.75});
};

TEST_F(HeatMapFile, WritesSvgAndPng) {
  NeedGnuplot();
  if (IsSkipped()) return;
  const HeadChoice choice = *ChooseBySparsity(pattern_, 0.5);
  const Status svg = WriteHeatMap(pattern_, &choice, dir_.file("map.svg"), "a pattern");
  ASSERT_TRUE(svg.ok()) << svg.message();
  const std::string text = *ReadFile(dir_.file("map.svg"), 1 << 22);
  EXPECT_THAT(text, HasSubstr("<svg"));
  EXPECT_THAT(text, HasSubstr("</svg>"));
  EXPECT_THAT(text, HasSubstr("a pattern"));
  EXPECT_THAT(text, HasSubstr("retrieval head"));
  const Status png = WriteHeatMap(pattern_, nullptr, dir_.file("map.png"));
  ASSERT_TRUE(png.ok()) << png.message();
  const std::string image = *ReadFile(dir_.file("map.png"), 1 << 22);
  EXPECT_THAT(image, StartsWith("\x89PNG\r\n"));
  EXPECT_THAT(image, HasSubstr("IEND"));
  EXPECT_EQ(dir_.n_entries(), 2);
}

TEST_F(HeatMapFile, TheProgramsOutputIsTheImage) {
  ReplaceGnuplot("echo picture");
  ASSERT_TRUE(WriteHeatMap(pattern_, nullptr, dir_.file("map.svg")).ok());
  EXPECT_EQ(*ReadFile(dir_.file("map.svg"), 100), "picture\n");
  EXPECT_THAT(*ReadFile(dir_.file("script"), 1 << 20), HasSubstr("size 480,320")) << "the smallest";
  const HeadPattern large = MakePattern(32, 16, std::vector<double>(32 * 16, 1));
  ASSERT_TRUE(WriteHeatMap(large, nullptr, dir_.file("map.svg")).ok());
  EXPECT_THAT(*ReadFile(dir_.file("script"), 1 << 20), HasSubstr("size 560,800")) << "20 pixels a head, and the edges";
}

TEST_F(HeatMapFile, TheProgramsFailureIsAnError) {
  for (const auto& [commands, code, says] :
       {std::tuple("exit 127", StatusCode::kNotFound, "gnuplot-nox"),
        {"exit 0", StatusCode::kInternal, "failed"},
        {"echo bad line >&2; echo half; exit 1", StatusCode::kInternal, "failed: bad line"}}) {
    ReplaceGnuplot(commands);
    const Result<std::string> output = RunGnuplot("plot x\n");
    EXPECT_EQ(output.status().code(), code) << commands;
    EXPECT_THAT(output.status().message(), HasSubstr(says)) << commands;
  }
}

TEST_F(HeatMapFile, CurvesComeFromTheLog) {
  std::string log;
  for (int step = 1; step <= 3000; ++step) {
    log += "{\"step\":" + std::to_string(step) + ",\"distill_loss\":0.0" + std::to_string(step) +
           ",\"gates\":[1.0,0.5]}\n";
  }
  dir_.Write("log.jsonl", log);
  dir_.Write("bad.jsonl", "{\"step\":1,\"distill_loss\":0.1,\"gates\":[1.0]}\n{\"step\":2}\n");
  dir_.Write("number.jsonl", "{\"step\":1,\"distill_loss\":0.1,\"gates\":0.5}\n");
  EXPECT_THAT(WriteLossCurves(dir_.file("number.jsonl"), dir_.file("a.svg")).message(), HasSubstr("gates: expected"));
  dir_.Write("short.jsonl", "{\"step\":1,\"distill_loss\":0.1,\"gates\":[1.0]}\n");
  EXPECT_THAT(WriteLossCurves(dir_.file("bad.jsonl"), dir_.file("a.svg")).message(), HasSubstr("bad.jsonl: line 2"));
  EXPECT_THAT(WriteLossCurves(dir_.file("short.jsonl"), dir_.file("a.svg")).message(), HasSubstr("two steps"));
  EXPECT_EQ(WriteLossCurves(dir_.file("none.jsonl"), dir_.file("a.svg")).code(), StatusCode::kNotFound);
  NeedGnuplot();
  if (IsSkipped()) return;
  const Status drawn = WriteLossCurves(dir_.file("log.jsonl"), dir_.file("a.svg"), "a run");
  ASSERT_TRUE(drawn.ok()) << drawn.message();
  const std::string text = *ReadFile(dir_.file("a.svg"), 1 << 22);
  EXPECT_THAT(text, HasSubstr("distillation loss"));
  EXPECT_THAT(text, HasSubstr("a run"));
}

TEST_F(HeatMapFile, ATitleIsOnlyEverText) {
  NeedGnuplot();
  if (IsSkipped()) return;
  const std::string victim = dir_.file("victim");
  const std::string title = "x'\nsystem 'touch " + victim + "'\n`touch " + victim + "` \"`touch " + victim +
                            "`\" \\\n!touch " + victim + "\n";
  const Status status = WriteHeatMap(pattern_, nullptr, dir_.file("map.svg"), title);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_FALSE(FileExists(victim));
  EXPECT_EQ(GnuplotString("a'b`c\"d\\e\nf"), "'a\u2019b\u2019c\u2019d e f'");
}

TEST_F(HeatMapFile, AFailingScriptIsAnError) {
  NeedGnuplot();
  if (IsSkipped()) return;
  const Result<std::string> result = RunGnuplot("plot nonsense(\n");
  EXPECT_EQ(result.status().code(), StatusCode::kInternal);
  EXPECT_THAT(result.status().message(), HasSubstr("gnuplot failed: "));
}

TEST_F(HeatMapFile, WithoutGnuplotThePackageIsNamed) {
  setenv("PATH", dir_.path().c_str(), 1);
  const Status status = WriteHeatMap(pattern_, nullptr, dir_.file("map.svg"));
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("install the package gnuplot-nox"));
  EXPECT_FALSE(FileExists(dir_.file("map.svg")));
}

TEST_F(HeatMapFile, RefusesOtherSuffixesAndBadPlaces) {
  EXPECT_EQ(WriteHeatMap(pattern_, nullptr, dir_.file("map.jpg")).code(), StatusCode::kInvalidArgument);
  NeedGnuplot();
  if (IsSkipped()) return;
  EXPECT_EQ(WriteHeatMap(pattern_, nullptr, dir_.file("no/dir/map.svg")).code(), StatusCode::kIo);
}

}  // namespace
}  // namespace duo
