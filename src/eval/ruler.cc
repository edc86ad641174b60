#include "eval/ruler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <functional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"

namespace duo {
namespace {

constexpr size_t kMaxFileBytes = size_t{4} << 30;

constexpr std::array<const char*, 32> kFirstHalves = {
    "amber", "brave", "calm",  "dusty", "early", "fancy", "gentle", "hollow", "icy",    "jolly", "keen",
    "lucky", "merry", "noble", "oaken", "proud", "quick", "rapid",  "silent", "tidy",   "upper", "vivid",
    "warm",  "young", "zesty", "bold",  "clear", "deep",  "fresh",  "grand",  "humble", "ivory"};
constexpr std::array<const char*, 32> kSecondHalves = {
    "anchor", "basket", "candle", "dragon", "engine", "falcon", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "mirror", "needle", "orchid", "pillow", "quarry", "ribbon", "saddle", "temple", "urchin", "valley",
    "window", "yogurt", "zipper", "bridge", "copper", "desert", "forest", "guitar", "harbor", "jungle"};

constexpr const char* kNoise =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string Digits(Rng* rng, int n) {
  std::string out(1, static_cast<char>('1' + rng->Below(9)));
  while (std::ssize(out) < n) out += static_cast<char>('0' + rng->Below(10));
  return out;
}

std::string Letters(Rng* rng, int n, char first) {
  std::string out;
  for (int i = 0; i < n; ++i) out += static_cast<char>(first + static_cast<char>(rng->Below(26)));
  return out;
}

// Calls `draw` until it has made n different texts.
std::vector<std::string> Different(int n, const std::function<std::string()>& draw) {
  std::set<std::string> seen;
  std::vector<std::string> out;
  while (std::ssize(out) < n) {
    std::string one = draw();
    if (seen.insert(one).second) out.push_back(std::move(one));
  }
  return out;
}

std::string Key(Rng* rng) {
  return std::string(kFirstHalves[rng->Below(kFirstHalves.size())]) + "-" +
         kSecondHalves[rng->Below(kSecondHalves.size())];
}

template <typename T>
void Shuffle(Rng* rng, std::vector<T>* items) {
  for (size_t i = items->size(); i > 1; --i) std::swap((*items)[i - 1], (*items)[rng->Below(i)]);
}

/// A prompt that grows with its number of parts (noise sentences, words). All random values are drawn beforehand.
struct Growing {
  std::function<std::string(int64_t)> input;
  std::vector<std::string> outputs;
};

// Lines of noise, with `sentences` in the given order between them, at the drawn places.
std::string Hide(const std::vector<std::string>& sentences, const std::vector<double>& places,
                 const std::function<std::string(int64_t)>& line, int64_t n_lines) {
  std::string out;
  size_t next = 0;
  for (int64_t i = 0; i < n_lines; ++i) {
    while (next < sentences.size() && places[next] * static_cast<double>(n_lines) <= static_cast<double>(i)) {
      out += sentences[next++] + "\n";
    }
    out += line(i) + "\n";
  }
  while (next < sentences.size()) out += sentences[next++] + "\n";
  return out;
}

std::vector<double> Places(Rng* rng, size_t n) {
  std::vector<double> places(n);
  for (double& place : places) place = rng->Uniform();
  std::sort(places.begin(), places.end());
  return places;
}

Growing Needle(Rng* rng, int n_keys, const std::function<std::string(int64_t)>& line) {
  const std::vector<std::string> keys = Different(n_keys, [rng] { return Key(rng); });
  std::vector<std::string> sentences, values;
  for (const std::string& key : keys) {
    values.push_back(Digits(rng, 7));
    sentences.push_back("One of the special magic numbers for " + key + " is: " + values.back() + ".");
  }
  const size_t asked = rng->Below(keys.size());
  const std::string& key = keys[asked];
  return {[=, places = Places(rng, sentences.size())](int64_t n) {
            return "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz "
                   "you about the number afterwards.\n" +
                   Hide(sentences, places, line, n) + "What is the special magic number for " + key +
                   " mentioned in the provided text? The special magic number for " + key +
                   " mentioned in the provided text is";
          },
          {values[asked]}};
}

Growing VariableTracking(Rng* rng) {
  constexpr int kVariables = 5;  // a chain of four hops
  const std::vector<std::string> names = Different(kVariables, [rng] { return Letters(rng, 5, 'A'); });
  const std::string value = Digits(rng, 5);
  std::vector<std::string> sentences = {"VAR " + names[0] + " = " + value};
  for (size_t i = 1; i < names.size(); ++i) sentences.push_back("VAR " + names[i] + " = VAR " + names[i - 1]);
  return {[=, places = Places(rng, sentences.size())](int64_t n) {
            return "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n" +
                   Hide(
                       sentences, places, [](int64_t) { return std::string(kNoise); }, n) +
                   "Question: Find all variables that are assigned the value " + value +
                   " in the text above. Answer: According to the chain(s) of variable assignment in the text above, " +
                   std::to_string(kVariables) + " variables are assigned the value " + value + ", they are:";
          },
          names};
}

// Ten words appear 30 times each, the others three times each.
Growing CommonWords(Rng* rng) {
  constexpr int kCommon = 10, kMax = 900;
  constexpr int64_t kTimes = 30, kRare = 3;
  const std::vector<std::string> words = Different(kMax, [rng] {
    return std::string(kFirstHalves[rng->Below(kFirstHalves.size())]) + kSecondHalves[rng->Below(kSecondHalves.size())];
  });
  const std::vector<std::string> common(words.begin(), words.begin() + kCommon);
  const uint64_t order = rng->Next();
  return {[=](int64_t n) {
            // There are n rare words. A list that needs more words than exist repeats all words proportionally more
            // often.
            const int64_t n_rare = std::min<int64_t>(n, kMax - kCommon);
            std::vector<std::string> list;
            const auto add = [&](int64_t times, int64_t word) { list.insert(list.end(), times, words[word]); };
            for (int64_t w = 0; w < kCommon; ++w) add(kTimes * n / n_rare, w);
            for (int64_t w = 0; w < n_rare; ++w) {
              add(kRare * n * (w + 1) / n_rare - kRare * n * w / n_rare, kCommon + w);
            }
            Rng shuffle(order);
            Shuffle(&shuffle, &list);
            std::string text =
                "Below is a numbered list of words. In these words, some appear more often than others. Memorize the "
                "ones that appear most often.\n";
            for (size_t i = 0; i < list.size(); ++i) text += fmt::format("{}. {} ", i + 1, list[i]);
            return text +
                   "\nQuestion: What are the 10 most common words in the above list? Answer: The top 10 words "
                   "that appear most often in the list are:";
          },
          common};
}

// Coded words between dots. Their frequencies fall as 1 / rank^2 (Zipf's law with alpha 2).
Growing FrequentWords(Rng* rng) {
  constexpr int kWords = 200;
  const std::vector<std::string> words = Different(kWords, [rng] { return Letters(rng, 6, 'a'); });
  const uint64_t order = rng->Next();
  return {[=](int64_t n) {
            double total = 0;
            for (int rank = 2; rank <= kWords; ++rank) total += 1.0 / (rank * rank);
            // Rank 1 is noise, as in the original.
            std::vector<std::string> list(n / 2, "....");
            for (int rank = 2; rank <= kWords; ++rank) {
              const auto count = static_cast<size_t>(std::floor(static_cast<double>(n) / (rank * rank) / total));
              list.insert(list.end(), count, words[rank - 2]);
            }
            Rng shuffle(order);
            Shuffle(&shuffle, &list);
            std::string text =
                "Read the following coded text and track the frequency of each coded word. Find the three most "
                "frequently appeared coded words.";
            for (const std::string& word : list) text += " " + word;
            return text +
                   "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most "
                   "frequently appeared words in the above coded text? Answer: According to the coded text above, the "
                   "three most frequently appeared words are:";
          },
          {words[0], words[1], words[2]}};
}

// The sentences of a text, one per line.
std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::string line;
  for (const char c : text) {
    if (c != '\n') line += c;
    if ((c == '\n' || c == '.') && line.size() > 1) lines.push_back(std::exchange(line, ""));
  }
  if (!line.empty()) lines.push_back(line);
  return lines;
}

Result<RulerSample> SampleOf(const Json& json, const std::string& where) {
  RulerSample sample;
  DUO_ASSIGN_OR_RETURN(sample.input, JsonString(json, "input", where));
  DUO_ASSIGN_OR_RETURN(const std::string prefix, JsonStringOr(json, "answer_prefix", "", where));
  // Some versions of the files already have the prefix in the input.
  if (!prefix.empty() && !sample.input.ends_with(prefix)) sample.input += prefix;
  const auto outputs = json.find("outputs");
  if (outputs == json.end() || !outputs->is_array() || outputs->empty()) {
    return Corrupt("{}: outputs: expected a list of texts", where);
  }
  for (const Json& output : *outputs) {
    if (!output.is_string() && !output.is_number()) {
      return Corrupt("{}: outputs: expected texts, found {}", where, JsonTypeName(output));
    }
    sample.outputs.push_back(output.is_string() ? output.get<std::string>() : JsonText(output));
  }
  return sample;
}

Status AppendFile(const std::string& path, const std::string& task, std::vector<RulerSample>* samples) {
  DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  DUO_ASSIGN_OR_RETURN(std::vector<RulerSample> parsed, ParseRuler(text, path));
  for (RulerSample& sample : parsed) {
    sample.task = task;
    samples->push_back(std::move(sample));
  }
  return OkStatus();
}

}  // namespace

const std::vector<std::string>& RulerTasks() {
  static const std::vector<std::string> tasks = {"niah_single_1", "niah_multikey_1", "vt", "cwe", "fwe"};
  return tasks;
}

Result<RulerSample> MakeRulerSample(const std::string& task, int64_t n_tokens, uint64_t seed, const TextSource& text,
                                    const Tokenizer& tokenizer) {
  Rng rng(seed);
  Growing growing;
  if (task == "niah_single_1") {
    growing = Needle(&rng, 1, [](int64_t) { return std::string(kNoise); });
  } else if (task == "niah_multikey_1") {
    DUO_ASSIGN_OR_RETURN(const std::string hay, text.Take(n_tokens, rng.Next(), tokenizer));
    growing = Needle(&rng, 4, [lines = Lines(hay)](int64_t i) { return lines[i % lines.size()]; });
  } else if (task == "vt") {
    growing = VariableTracking(&rng);
  } else if (task == "cwe") {
    growing = CommonWords(&rng);
  } else if (task == "fwe") {
    growing = FrequentWords(&rng);
  } else {
    return InvalidArgument("\"{}\" is not a task that duo can make", task);
  }
  const auto tokens = [&](int64_t n) { return std::ssize(tokenizer.Encode(growing.input(n))); };
  int64_t fits = 8, too_many = 16;
  if (const int64_t min_tokens = tokens(fits); min_tokens > n_tokens) {
    return InvalidArgument(
        "{}: the shortest prompt takes {} tokens, but the length is {}; use a longer length, or leave this task out",
        task, min_tokens, n_tokens);
  }
  while (tokens(too_many) <= n_tokens) {
    fits = too_many;
    too_many *= 2;
  }
  while (too_many - fits > std::max<int64_t>(1, fits / 200)) {
    const int64_t middle = (fits + too_many) / 2;
    (tokens(middle) <= n_tokens ? fits : too_many) = middle;
  }
  return RulerSample{.task = task, .input = growing.input(fits), .outputs = growing.outputs};
}

Result<std::vector<RulerSample>> ParseRuler(std::string_view text, const std::string& path) {
  std::vector<RulerSample> samples;
  DUO_RETURN_IF_ERROR(ForEachJsonLine(text, path, [&](const Json& json, const std::string& where) -> Status {
    DUO_ASSIGN_OR_RETURN(RulerSample sample, SampleOf(json, where));
    samples.push_back(std::move(sample));
    return OkStatus();
  }));
  if (samples.empty()) return Corrupt("{}: there are no samples in it", path);
  return samples;
}

Result<std::vector<RulerSample>> LoadRuler(const std::string& path) {
  std::vector<RulerSample> samples;
  const auto name_of = [](const std::filesystem::path& p) { return p.filename().string(); };
  if (!IsDirectory(path)) {
    const std::filesystem::path file(path);
    DUO_RETURN_IF_ERROR(AppendFile(path, name_of(std::filesystem::absolute(file).parent_path()), &samples));
    return samples;
  }
  const std::string own = path + "/validation.jsonl";
  if (FileExists(own)) {
    DUO_RETURN_IF_ERROR(AppendFile(own, name_of(std::filesystem::canonical(path)), &samples));
    return samples;
  }
  std::vector<std::filesystem::path> folders;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    if (FileExists((entry.path() / "validation.jsonl").string())) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  for (const auto& folder : folders) {
    DUO_RETURN_IF_ERROR(AppendFile((folder / "validation.jsonl").string(), name_of(folder), &samples));
  }
  if (samples.empty()) return NotFound("{}: has no validation.jsonl, nor a folder with one", path);
  return samples;
}

int64_t RulerAnswerTokens(std::string_view task) {
  if (task.starts_with("vt")) return 30;
  if (task.starts_with("cwe")) return 120;
  if (task.starts_with("fwe")) return 50;
  return task.starts_with("qa") ? 32 : 128;
}

double RulerScore(std::string_view task, std::string_view answer, const std::vector<std::string>& outputs) {
  if (outputs.empty()) return 0;
  const std::string lower = Lower(answer);
  double found = 0;
  for (const std::string& output : outputs) found += lower.find(Lower(output)) != std::string::npos ? 1 : 0;
  if (task.starts_with("qa")) return found > 0 ? 1 : 0;
  return found / static_cast<double>(outputs.size());
}

}  // namespace duo
