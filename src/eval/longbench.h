// LongBench, versions 1 (arXiv:2308.14508) and 2 (arXiv:2412.15204): prompts, answer lengths, truncation and metrics of
// each task. Reads the files as downloaded. The prompts say what the official ones say, in our words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "duo/result.h"
#include "duo/tokenizer.h"

namespace duo {

struct LongBenchSample {
  std::string task;
  std::string group;  // v2: for example "easy short"; v1: empty
  std::string prompt;
  std::vector<std::string> answers;
  std::vector<std::string> classes;
  int64_t index = 0;  // position in its file
};

/// Names of the version 1 tasks: English, then code, then Chinese.
const std::vector<std::string>& LongBenchTasks();
/// Whether the metric of a task compares characters here and words in the original.
bool IsChineseTask(std::string_view task);

/// `path` is a folder with <task>.jsonl files, one such file, or version 2's array of questions (*.json). From a
/// folder, reads `tasks`; empty = all that exist. Reads at most `limit` samples of each task; 0 = all. Samples that
/// share a text are adjacent. kNotFound; kCorrupt names file, line (version 2: element) and key; kInvalidArgument for
/// an unknown task.
Result<std::vector<LongBenchSample>> LoadLongBench(const std::string& path, const std::vector<std::string>& tasks,
                                                   int64_t limit);

/// Parses the text of one file of a version 1 task or of "longbench_v2". `path` begins every message.
Result<std::vector<LongBenchSample>> ParseLongBench(std::string_view text, const std::string& task,
                                                    const std::string& path);

/// Max tokens of an answer, as in the original.
int64_t LongBenchAnswerTokens(std::string_view task);
/// Whether the original puts the prompt into the model's chat template.
bool LongBenchUsesChat(std::string_view task);

/// Shortens a prompt of more than max_tokens: removes its middle and leaves half of the limit at each end.
std::vector<int32_t> TruncateMiddle(std::vector<int32_t> ids, int64_t max_tokens);

/// The score of an answer, in [0, 1]: the best over the sample's answers.
double LongBenchScore(const LongBenchSample& sample, std::string_view answer);

}  // namespace duo
