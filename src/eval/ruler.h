// RULER (arXiv:2404.06654): reads its published validation.jsonl files, and makes five of its tasks from a seed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "duo/result.h"
#include "duo/tokenizer.h"
#include "eval/text_source.h"

namespace duo {

struct RulerSample {
  std::string task;
  std::string input;  // the whole prompt, including the beginning of the answer
  std::vector<std::string> outputs;
};

/// The tasks that MakeRulerSample knows: niah_single_1, niah_multikey_1, vt, cwe, fwe.
const std::vector<std::string>& RulerTasks();

/// Makes a sample of `task` whose prompt takes at most n_tokens of `tokenizer`, and almost that many. The same seed
/// gives the same sample. niah_multikey_1 is hidden in text from `text`. kInvalidArgument for an unknown task, or too
/// few tokens for the task.
Result<RulerSample> MakeRulerSample(const std::string& task, int64_t n_tokens, uint64_t seed, const TextSource& text,
                                    const Tokenizer& tokenizer);

/// `path` is a validation.jsonl, a task's folder that holds one, or a folder of such folders (in name order). Keys:
/// input, outputs, and optionally answer_prefix. kNotFound; kCorrupt names file, line and key.
Result<std::vector<RulerSample>> LoadRuler(const std::string& path);

/// Parses the text of one file; `path` begins every message. The samples have no task.
Result<std::vector<RulerSample>> ParseRuler(std::string_view text, const std::string& path);

/// Max tokens of an answer, as in RULER: niah_* 128, vt 30, cwe 120, fwe 50, qa_* 32.
int64_t RulerAnswerTokens(std::string_view task);

/// Share of the outputs that are substrings of the answer, ignoring case; for qa_*, 1 if any is. In [0, 1].
double RulerScore(std::string_view task, std::string_view answer, const std::vector<std::string>& outputs);

}  // namespace duo
