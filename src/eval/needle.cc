#include "eval/needle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/progress_counter.h"
#include "text/builtin_book.h"
#include "text/normalizer.h"
#include "text/passkey_words.h"
#include "text/utf8.h"

namespace duo {
namespace {

// A letter or digit of a script that puts blanks between words. In other scripts every character ends a word.
bool IsWordLetter(char32_t c) { return c < 0x2E80 && IsWordCharacter(c); }

bool HasWord(std::u32string_view text, std::u32string_view word) {
  for (size_t at = text.find(word); at != std::u32string_view::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    const bool begins = at == 0 || !IsWordLetter(text[at]) || !IsWordLetter(text[at - 1]);
    const bool ends = end == text.size() || !IsWordLetter(text[end]) || !IsWordLetter(text[end - 1]);
    if (begins && ends) return true;
  }
  return false;
}

/// The tokens of one text, and the ends of its sentences.
class Haystack {
 public:
  Haystack(const Tokenizer& tokenizer, const NeedleText& source) : tokenizer_(tokenizer), task_(source.task) {
    ids_ = tokenizer.Encode(std::string(kBookBegin) + " " + source.text);
    n_begin_ = std::ssize(tokenizer.Encode(kBookBegin));
    for (const std::string& needle : task_.needles) {
      needles_.push_back(tokenizer.Encode(" " + needle, SpecialTokens::kNone));
      n_needles_ += std::ssize(needles_.back());
    }
    for (const NeedleQuestion& question : task_.questions) {
      questions_.push_back(tokenizer.Encode(" " + std::string(kBookEnd) + question.text, SpecialTokens::kNone));
      n_question_ = std::max(n_question_, std::ssize(questions_.back()));
    }
  }

  const NeedleTask& task() const { return task_; }

  Status CheckLength(int64_t length) const {
    const int64_t min = n_begin_ + n_needles_ + n_question_ + 16;
    const int64_t max = std::ssize(ids_) + n_needles_ + n_question_;
    if (length < min) {
      return InvalidArgument("a length of {} tokens: needles and question alone take {}", length, min);
    }
    if (length > max) {
      return InvalidArgument("a length of {} tokens: the text has only {} tokens with needles and question", length,
                             max);
    }
    return OkStatus();
  }

  /// The place of each needle: the number of tokens of the text before it, in ascending order.
  std::vector<int64_t> Places(int64_t length, double depth) const {
    const int64_t end = length - n_needles_ - n_question_, n_text = end - n_begin_;
    std::vector<int64_t> places;
    for (size_t i = 0; i < needles_.size(); ++i) {
      const double share = depth + (1 - depth) * static_cast<double>(i) / static_cast<double>(needles_.size());
      const int64_t wanted = n_begin_ + std::llround(share * static_cast<double>(n_text));
      places.push_back(std::max(SentenceEnd(wanted, end), i == 0 ? n_begin_ : places.back()));
    }
    return places;
  }

  std::vector<int32_t> Prompt(int64_t length, const std::vector<int64_t>& places, size_t question) const {
    const int64_t end = length - n_needles_ - n_question_;
    std::vector<int32_t> prompt;
    prompt.reserve(length);
    int64_t at = 0;
    const auto text_until = [&](int64_t until) {
      prompt.insert(prompt.end(), ids_.begin() + at, ids_.begin() + until);
      at = until;
    };
    for (size_t i = 0; i < needles_.size(); ++i) {
      text_until(places[i]);
      prompt.insert(prompt.end(), needles_[i].begin(), needles_[i].end());
    }
    text_until(end);
    prompt.insert(prompt.end(), questions_[question].begin(), questions_[question].end());
    return prompt;
  }

 private:
  /// The last place at or before `wanted` where a sentence ends; `wanted` itself if no sentence ends near it.
  int64_t SentenceEnd(int64_t wanted, int64_t end) const {
    constexpr int64_t kSearchTokens = 256;
    if (wanted >= end) return end;
    for (int64_t at = wanted; at > std::max(n_begin_, wanted - kSearchTokens); --at) {
      const std::string text = tokenizer_.Decode({ids_[at - 1]});
      for (const std::string_view mark : {".", "!", "?", "\n", "。", "！", "？"}) {
        if (text.ends_with(mark)) return at;
      }
    }
    return wanted - kSearchTokens <= n_begin_ ? n_begin_ : wanted;
  }

  const Tokenizer& tokenizer_;
  NeedleTask task_;
  std::vector<int32_t> ids_;
  std::vector<std::vector<int32_t>> needles_, questions_;
  int64_t n_begin_ = 0, n_needles_ = 0, n_question_ = 0;
};

struct Cell {
  int64_t length;
  double depth;
  std::vector<int64_t> places;
};

std::string KeyOf(const std::string& mode, const NeedleResult& r) {
  return fmt::format("{}/{}/{}/{}/{}", mode, r.length, JsonText(r.depth), r.seed, r.question);
}

}  // namespace

Result<NeedleTask> MakeNeedleTask(NeedlePreset preset, int n_needles, uint64_t seed) {
  NeedleTask task;
  if (preset == NeedlePreset::kClassic) {
    if (n_needles != 1) {
      return InvalidArgument("the classic preset has one needle; passkey and code can have more").About("n_needles");
    }
    task.needles = {"The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."};
    task.questions = {
        {"What is the best thing to do in San Francisco?\nAnswer: The best thing to do in San Francisco is",
         {"eat", "sandwich", "sit", "Dolores Park", "sunny", "day"}}};
    return task;
  }
  if (n_needles < 1 || n_needles > kMaxPasskeys) {
    return BadOption("n_needles", n_needles, fmt::format("1..{}", kMaxPasskeys));
  }
  const FactKind kind = preset == NeedlePreset::kPasskey ? FactKind::kPasskey : FactKind::kCode;
  DUO_ASSIGN_OR_RETURN(const Book book, MakeBook({.n_tokens = 1, .n_facts = n_needles, .seed = seed, .kinds = {kind}},
                                                 [](std::string_view) { return int64_t{1}; }));
  for (const Fact& fact : book.facts) {
    task.needles.push_back(fact.needle + ".");
    task.questions.push_back({fact.question, {fact.answer}});
  }
  task.one_line = true;
  return task;
}

double KeywordScore(std::string_view answer, const std::vector<std::string>& keywords) {
  if (keywords.empty()) return 1;
  const std::u32string text = CodePoints(LowercaseText(answer));
  double found = 0;
  for (const std::string& keyword : keywords) {
    found += !keyword.empty() && HasWord(text, CodePoints(LowercaseText(keyword))) ? 1 : 0;
  }
  return found / static_cast<double>(keywords.size());
}

Result<std::vector<NeedleResult>> RunNeedles(const std::string& mode, const NeedleGrid& grid,
                                             const NeedleSource& source, const Tokenizer& tokenizer,
                                             PromptRunner* runner, ResultLog* log, const ProgressCallback& progress) {
  std::vector<NeedleResult> results;
  ProgressCounter counter(progress, "needles", "prompts", 0);
  for (int seed = 0; seed < grid.n_seeds; ++seed) {
    DUO_ASSIGN_OR_RETURN(const NeedleText text, source(seed));
    const Haystack haystack(tokenizer, text);
    std::vector<Cell> cells;
    for (const int64_t length : grid.lengths) {
      DUO_RETURN_IF_ERROR(haystack.CheckLength(length));
      for (const double depth : grid.depths) cells.push_back({length, depth, haystack.Places(length, depth)});
    }
    // A prompt shares its text, up to its first needle, with every prompt whose first needle comes later.
    std::stable_sort(cells.begin(), cells.end(),
                     [](const Cell& a, const Cell& b) { return a.places[0] > b.places[0]; });
    const size_t n_questions = haystack.task().questions.size();
    counter.SetTotal(std::ssize(cells) * n_questions * grid.n_seeds);
    for (const Cell& cell : cells) {
      for (size_t question = 0; question < n_questions; ++question) {
        NeedleResult result{
            .length = cell.length, .depth = cell.depth, .seed = seed, .question = static_cast<int>(question)};
        const NeedleTask& task = haystack.task();
        ScoredPrompt prompt{
            .key = KeyOf(mode, result),
            .prompt = [&] { return haystack.Prompt(cell.length, cell.places, question); },
            .score =
                [&](const std::string& answer) { return KeywordScore(answer, task.questions[question].keywords); }};
        prompt.generate.max_tokens = task.max_answer;
        if (task.one_line) prompt.generate.stop = {"\n"};
        DUO_ASSIGN_OR_RETURN(result.reply, AnswerOnce(prompt, runner, log, counter.Callback()));
        results.push_back(std::move(result));
        DUO_RETURN_IF_ERROR(counter.Add(1));
      }
    }
  }
  return results;
}

std::vector<std::vector<double>> NeedleTable(const NeedleGrid& grid, const std::vector<NeedleResult>& results) {
  std::vector<std::vector<double>> sums(grid.depths.size(), std::vector<double>(grid.lengths.size(), 0.0));
  std::vector<std::vector<double>> counts = sums;
  for (const NeedleResult& r : results) {
    const size_t row = std::find(grid.depths.begin(), grid.depths.end(), r.depth) - grid.depths.begin();
    const size_t column = std::find(grid.lengths.begin(), grid.lengths.end(), r.length) - grid.lengths.begin();
    if (row == grid.depths.size() || column == grid.lengths.size()) continue;
    sums[row][column] += r.reply.score;
    counts[row][column] += 1;
  }
  for (size_t row = 0; row < sums.size(); ++row) {
    for (size_t column = 0; column < sums[row].size(); ++column) {
      if (counts[row][column] > 0) sums[row][column] /= counts[row][column];
    }
  }
  return sums;
}

}  // namespace duo
