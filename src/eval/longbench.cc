#include "eval/longbench.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/strings.h"
#include "eval/metrics.h"

namespace duo {
namespace {

constexpr size_t kMaxFileBytes = size_t{4} << 30;
constexpr std::string_view kVersion2 = "longbench_v2";

enum class Metric : uint8_t { kQaF1, kQaF1Zh, kRouge, kRougeZh, kClassification, kNumber, kCode, kLetter };

struct Task {
  const char* name;
  Metric metric;
  int64_t answer_tokens;
  bool chat;
  bool first_line;     // only the answer's first line is scored
  const char* prompt;  // {context} and {input} are replaced
};

constexpr const char* kPassages =
    "Answer the question based on the given passages. Give only the answer and no other words.\n\nThe passages:\n"
    "{context}\n\nAnswer the question based on the given passages. Give only the answer and no other words.\n\n"
    "Question: {input}\nAnswer:";

// Answer lengths, metrics, chat and first lines come from the official dataset2maxlen, dataset2metric, pred.py and
// eval.py.
constexpr std::array<Task, 22> kTasks = {{
    {"narrativeqa", Metric::kQaF1, 128, true, false,
     "You get a story, a novel or a film script, and a question. Answer as concisely as you can, with a single "
     "phrase if possible, without any explanation.\n\n"
     "Story: {context}\n\n"
     "Now answer the question about the story as concisely as you can, with a single phrase if possible, without any "
     "explanation.\n\n"
     "Question: {input}\n\n"
     "Answer:"},
    {"qasper", Metric::kQaF1, 128, true, false,
     "You get a scientific article and a question. Answer as concisely as you can, with a single phrase or sentence "
     "if possible. If the article does not answer the question, write \"unanswerable\". If it is a yes/no question, "
     "answer \"yes\", \"no\" or \"unanswerable\". Do not explain.\n\n"
     "Article: {context}\n\n"
     "Now answer the question about the article as concisely as you can, with a single phrase or sentence if "
     "possible. If the article does not answer it, write \"unanswerable\". If it is a yes/no question, answer "
     "\"yes\", \"no\" or \"unanswerable\". Do not explain.\n\n"
     "Question: {input}\n\n"
     "Answer:"},
    {"multifieldqa_en", Metric::kQaF1, 64, true, false,
     "Read the following text and answer briefly.\n\n"
     "{context}\n\n"
     "Now answer this question based on the text above, giving only the answer and no other words.\n\n"
     "Question: {input}\n"
     "Answer:"},
    {"hotpotqa", Metric::kQaF1, 32, true, false, kPassages},
    {"2wikimqa", Metric::kQaF1, 32, true, false, kPassages},
    {"musique", Metric::kQaF1, 32, true, false, kPassages},
    {"gov_report", Metric::kRouge, 512, true, false,
     "You get a report by a government agency. Write a one-page summary of it.\n\nReport:\n{context}\n\nNow write a "
     "one-page summary of the report.\n\nSummary:"},
    {"qmsum", Metric::kRouge, 512, true, false,
     "You get the transcript of a meeting and a query, a question or an instruction. Answer it in one or more "
     "sentences.\n\nTranscript:\n{context}\n\nNow answer the query about this meeting in one or more "
     "sentences.\n\nQuery: "
     "{input}\nAnswer:"},
    {"multi_news", Metric::kRouge, 512, true, false,
     "You get several news passages. Write a one-page summary of all of them.\n\n"
     "News:\n"
     "{context}\n\n"
     "Now write a one-page summary of all the news.\n\n"
     "Summary:"},
    {"trec", Metric::kClassification, 64, false, true,
     "Say of what type the question below is. Here are some examples of questions.\n\n{context}\n{input}"},
    {"triviaqa", Metric::kQaF1, 32, false, true,
     "Answer the question based on the given passage. Give only the answer and no other words. Here are some "
     "examples.\n\n{context}\n\n{input}"},
    {"samsum", Metric::kRouge, 128, false, true,
     "Summarize the dialogue in a few short sentences. Here are some examples.\n\n{context}\n\n{input}"},
    {"passage_count", Metric::kNumber, 32, true, false,
     "Below are some paragraphs from Wikipedia. Some of them may be there twice. Read them carefully and find out "
     "how many different paragraphs there are when duplicates are left out.\n\n"
     "{context}\n\n"
     "Give the number of different paragraphs without duplicates. The answer is the number alone, such as 1, 2, "
     "3.\n\n"
     "The final answer is: "},
    {"passage_retrieval_en", Metric::kNumber, 32, true, false,
     "Here are 30 paragraphs from Wikipedia and an abstract. Find the paragraph that the abstract is "
     "about.\n\n{context}"
     "\n\nThe abstract:\n\n{input}\n\nGive the number of the paragraph that the abstract is about, in the form "
     "\"Paragraph 1\", \"Paragraph 2\".\n\nThe answer is: "},
    {"lcc", Metric::kCode, 64, false, false, "Complete the code given below. \n{context}Next line of code:\n"},
    {"repobench-p", Metric::kCode, 64, false, false,
     "Complete the code given below. \n{context}{input}Next line of code:\n"},
    {"multifieldqa_zh", Metric::kQaF1Zh, 64, true, false,
     "阅读下面的文字，用中文简短回答：\n\n{context}"
     "\n\n请根据上面的文章回答问题，只给出答案，不要输出其他内容。\n\n问题：{"
     "input}\n回答："},
    {"dureader", Metric::kRougeZh, 128, true, false,
     "请根据给定的文章回答问题。\n\n文章：{context}\n\n请根据上述文章回答下面的问题。\n\n问题：{input}\n回答："},
    {"vcsum", Metric::kRougeZh, 512, true, false,
     "下面是一段会议记录，请阅读后写一段总结，概括会议的内容。\n会议记录：\n{context}\n\n会议总结："},
    {"lsht", Metric::kClassification, 64, false, true, "请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}"},
    {"passage_retrieval_zh", Metric::kNumber, 32, true, false,
     "下面是若干段落，以及其中一个段落的摘要。请确定摘要出自哪一段。\n\n"
     "{context}\n\n"
     "摘要：\n\n"
     "{input}\n\n"
     "请给出摘要所属段落的编号，格式必须是“段落1”、“段落2”。\n\n"
     "答案是："},
    {"longbench_v2", Metric::kLetter, 128, true, false,
     "Please read the following text and answer the question below.\n\n"
     "<text>\n"
     "{context}\n"
     "</text>\n\n"
     "What is the correct answer to this question: {input}\n\n"
     "Format your response as follows: \"The correct answer is (insert answer here)\"."},
}};

const Task* FindTask(std::string_view name) {
  // LongBench-E has the same tasks, at even lengths, under names that end in _e.
  if (name.ends_with("_e")) name.remove_suffix(2);
  const auto it = std::find_if(kTasks.begin(), kTasks.end(), [&](const Task& task) { return task.name == name; });
  return it == kTasks.end() ? nullptr : &*it;
}

// Replaces in one pass, so inserted text is not searched again.
std::string Fill(std::string_view prompt, std::string_view context, std::string_view input) {
  std::string out;
  for (size_t at = 0; at < prompt.size();) {
    const auto starts = [&](std::string_view name) { return prompt.substr(at, name.size()) == name; };
    if (starts("{context}")) {
      out += context;
      at += 9;
    } else if (starts("{input}")) {
      out += input;
      at += 7;
    } else {
      out += prompt[at++];
    }
  }
  return out;
}

Status Texts(const Json& json, const char* key, bool required, const std::string& where,
             std::vector<std::string>* out) {
  const auto list = json.find(key);
  if (list == json.end() || list->is_null()) {
    return required ? Corrupt("{}: {}: missing", where, key) : OkStatus();
  }
  if (!list->is_array() || (required && list->empty())) {
    return Corrupt("{}: {}: expected a list of texts", where, key);
  }
  for (const Json& text : *list) {
    if (!text.is_string()) return Corrupt("{}: {}: expected texts", where, key);
    out->push_back(text.get<std::string>());
  }
  return OkStatus();
}

/// A sample and the number of the text it is about, so that samples of one text can be put together.
struct Loaded {
  LongBenchSample sample;
  size_t group = 0;
};

class Loader {
 public:
  explicit Loader(int64_t limit) : limit_(limit) {}

  Status AddFile(const std::string& path, const Task& task, const std::string& name) {
    DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
    return AddLines(text, path, task, name);
  }

  Status AddLines(std::string_view text, const std::string& path, const Task& task, const std::string& name) {
    int64_t n = 0;
    const JsonLine add = [&](const Json& json, const std::string& where) -> Status {
      if (limit_ > 0 && n >= limit_) return OkStatus();
      DUO_ASSIGN_OR_RETURN(const std::string context, JsonString(json, "context", where));
      DUO_ASSIGN_OR_RETURN(const std::string input, JsonStringOr(json, "input", "", where));
      LongBenchSample sample;
      sample.task = name;
      sample.prompt = Fill(task.prompt, context, input);
      sample.index = n++;
      DUO_RETURN_IF_ERROR(Texts(json, "answers", true, where, &sample.answers));
      DUO_RETURN_IF_ERROR(Texts(json, "all_classes", task.metric == Metric::kClassification, where, &sample.classes));
      Add(std::move(sample), name + "\n" + context);
      return OkStatus();
    };
    DUO_RETURN_IF_ERROR(ForEachJsonLine(text, path, add));
    return n > 0 ? OkStatus() : Corrupt("{}: there are no samples in it", path);
  }

  Status AddVersion2(std::string_view text, const std::string& path) {
    DUO_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
    if (!json.is_array() || json.empty()) return Corrupt("{}: expected an array of questions", path);
    const Task& task = *FindTask(kVersion2);
    int64_t n = 0;
    for (const Json& element : json) {
      if (limit_ > 0 && n == limit_) break;
      const std::string where = fmt::format("{}: element {}", path, n);
      DUO_ASSIGN_OR_RETURN(const std::string context, JsonString(element, "context", where));
      DUO_ASSIGN_OR_RETURN(std::string question, JsonString(element, "question", where));
      question += "\n\nChoices:";
      for (const char* letter : {"A", "B", "C", "D"}) {
        DUO_ASSIGN_OR_RETURN(const std::string choice,
                             JsonString(element, (std::string("choice_") + letter).c_str(), where));
        question += std::string("\n(") + letter + ") " + choice;
      }
      LongBenchSample sample;
      sample.task = kVersion2;
      sample.prompt = Fill(task.prompt, context, question);
      sample.index = n++;
      DUO_ASSIGN_OR_RETURN(const std::string answer, JsonString(element, "answer", where));
      if (answer.size() != 1 || answer[0] < 'A' || answer[0] > 'D') {
        return Corrupt("{}: answer: \"{}\", expected A, B, C or D", where, answer);
      }
      sample.answers = {answer};
      DUO_ASSIGN_OR_RETURN(const std::string difficulty, JsonStringOr(element, "difficulty", "", where));
      DUO_ASSIGN_OR_RETURN(const std::string length, JsonStringOr(element, "length", "", where));
      sample.group = difficulty + (difficulty.empty() || length.empty() ? "" : " ") + length;
      Add(std::move(sample), context);
    }
    return OkStatus();
  }

  std::vector<LongBenchSample> Take() {
    std::stable_sort(samples_.begin(), samples_.end(),
                     [](const Loaded& a, const Loaded& b) { return a.group < b.group; });
    std::vector<LongBenchSample> out;
    for (Loaded& loaded : samples_) out.push_back(std::move(loaded.sample));
    return out;
  }

 private:
  void Add(LongBenchSample sample, const std::string& text) {
    const size_t group = groups_.try_emplace(text, groups_.size()).first->second;
    samples_.push_back({std::move(sample), group});
  }

  int64_t limit_;
  std::map<std::string, size_t> groups_;
  std::vector<Loaded> samples_;
};

std::string FirstLine(std::string_view text) {
  text = TrimStart(text, "\n");
  return std::string(text.substr(0, text.find('\n')));
}

}  // namespace

const std::vector<std::string>& LongBenchTasks() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> out;
    for (const Task& task : kTasks) {
      if (task.name != kVersion2) out.emplace_back(task.name);
    }
    return out;
  }();
  return names;
}

bool IsChineseTask(std::string_view task) {
  const Task* found = FindTask(task);
  return found != nullptr && (found->metric == Metric::kQaF1Zh || found->metric == Metric::kRougeZh);
}

namespace {

Status NoSuchTask(const std::string& task) { return InvalidArgument("\"{}\" is not a task of LongBench", task); }

}  // namespace

Result<std::vector<LongBenchSample>> LoadLongBench(const std::string& path, const std::vector<std::string>& tasks,
                                                   int64_t limit) {
  Loader loader(limit);
  for (const std::string& task : tasks) {
    if (FindTask(task) == nullptr) return NoSuchTask(task).About("tasks");
  }
  if (!IsDirectory(path)) {
    const std::filesystem::path file(path);
    if (file.extension() == ".json") {
      DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
      DUO_RETURN_IF_ERROR(loader.AddVersion2(text, path));
      return loader.Take();
    }
    const Task* task = FindTask(file.stem().string());
    if (task == nullptr) {
      return Status(FileExists(path) ? StatusCode::kInvalidArgument : StatusCode::kNotFound,
                    path + ": expected a folder, a file named after a task (narrativeqa.jsonl), or version 2's .json");
    }
    DUO_RETURN_IF_ERROR(loader.AddFile(path, *task, file.stem().string()));
    return loader.Take();
  }
  std::vector<std::string> names = tasks;
  if (names.empty()) {
    for (const std::string& name : LongBenchTasks()) {
      for (const std::string& variant : {name, name + "_e"}) {
        if (FileExists(path + "/" + variant + ".jsonl")) names.push_back(variant);
      }
    }
    if (names.empty()) return NotFound("{}: has no <task>.jsonl of LongBench", path);
  }
  for (const std::string& name : names) {
    DUO_RETURN_IF_ERROR(loader.AddFile(path + "/" + name + ".jsonl", *FindTask(name), name));
  }
  return loader.Take();
}

Result<std::vector<LongBenchSample>> ParseLongBench(std::string_view text, const std::string& task,
                                                    const std::string& path) {
  Loader loader(0);
  const Task* found = FindTask(task);
  if (found == nullptr) return NoSuchTask(task);
  DUO_RETURN_IF_ERROR(found->metric == Metric::kLetter ? loader.AddVersion2(text, path)
                                                       : loader.AddLines(text, path, *found, task));
  return loader.Take();
}

int64_t LongBenchAnswerTokens(std::string_view task) {
  const Task* found = FindTask(task);
  return found == nullptr ? 128 : found->answer_tokens;
}

bool LongBenchUsesChat(std::string_view task) {
  const Task* found = FindTask(task);
  return found == nullptr || found->chat;
}

std::vector<int32_t> TruncateMiddle(std::vector<int32_t> ids, int64_t max_tokens) {
  const auto n = std::ssize(ids);
  if (n <= max_tokens) return ids;
  const int64_t head = max_tokens / 2, tail = max_tokens - head;
  ids.erase(ids.begin() + head, ids.end() - static_cast<std::ptrdiff_t>(tail));
  return ids;
}

double LongBenchScore(const LongBenchSample& sample, std::string_view answer) {
  const Task* task = FindTask(sample.task);
  if (task == nullptr) return 0;
  const std::string text = task->first_line ? FirstLine(answer) : std::string(answer);
  double best = 0;
  for (const std::string& wanted : sample.answers) {
    double score = 0;
    switch (task->metric) {
      case Metric::kQaF1: score = QaF1(text, wanted); break;
      case Metric::kQaF1Zh: score = QaF1ByCharacter(text, wanted); break;
      case Metric::kRouge: score = RougeL(text, wanted); break;
      case Metric::kRougeZh: score = RougeLByCharacter(text, wanted); break;
      case Metric::kClassification: score = Classification(text, wanted, sample.classes); break;
      case Metric::kNumber: score = NumberShare(text, wanted); break;
      case Metric::kCode: score = CodeSimilarity(text, wanted); break;
      case Metric::kLetter: score = ChosenLetter(text) == wanted[0] ? 1 : 0; break;
    }
    best = std::max(best, score);
  }
  return best;
}

}  // namespace duo
