// LongBench, versions 1 (arXiv:2308.14508) and 2 (arXiv:2412.15204): prompts, answer lengths, truncation and metrics of
// each task, for the files as they are downloaded. The prompts say what the official ones say, in our words.
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
  std::string group;  // v2: "easy short"...; v1: empty
  std::string prompt;
  std::vector<std::string> answers;
  std::vector<std::string> classes;
  int64_t index = 0;  // in its file
};

/// Names of the version 1 tasks, English, then code, then Chinese.
const std::vector<std::string>& LongBenchTasks();
/// Whether the metric of a task goes by character here and by word in the original.
bool IsChineseTask(std::string_view task);

/// `path`: a folder with <task>.jsonl (of which `tasks` are taken; empty = all that are there), one such file, or
/// version 2's array of questions (*.json). At most `limit` samples of each task, 0 = all. Samples that share a text
/// come one behind the other. kNotFound; kCorrupt names file, line (version 2: element) and key; kInvalidArgument for a
/// task that is not known.
Result<std::vector<LongBenchSample>> LoadLongBench(const std::string& path, const std::vector<std::string>& tasks,
                                                   int64_t limit);

/// One file's text, of a version 1 task or "longbench_v2"; `path` begins every message.
Result<std::vector<LongBenchSample>> ParseLongBench(std::string_view text, const std::string& task,
                                                    const std::string& path);

/// Most tokens of an answer, as the original runs the task.
int64_t LongBenchAnswerTokens(std::string_view task);
/// Whether the original puts the prompt into the model's chat template.
bool LongBenchUsesChat(std::string_view task);

/// Tokens of the prompt; one of more than max_tokens loses its middle, half of the limit being left at either end.
std::vector<int32_t> TruncateMiddle(std::vector<int32_t> ids, int64_t max_tokens);

/// Of an answer, in [0, 1]: the best over the sample's answers.
double LongBenchScore(const LongBenchSample& sample, std::string_view answer);

}  // namespace duo
