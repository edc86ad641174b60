// RULER (arXiv:2404.06654): its published validation.jsonl files, and five of its tasks made from a seed.
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
  std::string input;  // the whole prompt, with the beginning of the answer
  std::vector<std::string> outputs;
};

/// Names that MakeRulerSample knows: niah_single_1, niah_multikey_1, vt, cwe, fwe.
const std::vector<std::string>& RulerTasks();

/// A sample of `task` whose prompt takes at most n_tokens of `tokenizer` and nearly so many; the same for the same
/// seed. niah_multikey_1 is hidden in text of `text`. kInvalidArgument: no such task, or too few tokens for it.
Result<RulerSample> MakeRulerSample(const std::string& task, int64_t n_tokens, uint64_t seed, const TextSource& text,
                                    const Tokenizer& tokenizer);

/// `path`: a validation.jsonl, a task's folder that holds one, or a folder of such folders (in order of their names).
/// Keys: input, outputs, and answer_prefix when it is there. kNotFound; kCorrupt names file, line and key.
Result<std::vector<RulerSample>> LoadRuler(const std::string& path);

/// One file's text; `path` begins every message. Samples have no task.
Result<std::vector<RulerSample>> ParseRuler(std::string_view text, const std::string& path);

/// Tokens that an answer may take, as RULER runs the task: niah_* 128, vt 30, cwe 120, fwe 50, qa_* 32.
int64_t RulerAnswerTokens(std::string_view task);

/// Share of the outputs that are substrings of the answer, whatever their case; for qa_* 1 when any is. In [0, 1].
double RulerScore(std::string_view task, std::string_view answer, const std::vector<std::string>& outputs);

}  // namespace duo
