#include "eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/strings.h"
#include "text/normalizer.h"
#include "text/utf8.h"

namespace duo {
namespace {

constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

using Words = std::vector<std::string>;

Words SplitAtSpace(std::string_view text) {
  Words words;
  std::string word;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text, at);
    if (IsWhiteSpace(step.code_point)) {
      if (!word.empty()) words.push_back(std::move(word));
      word.clear();
    } else {
      word += text.substr(at, step.n_bytes);
    }
    at += step.n_bytes;
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

/// All characters except white space.
Words Characters(std::string_view text) {
  Words out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text, at);
    if (!IsWhiteSpace(step.code_point)) out.emplace_back(text.substr(at, step.n_bytes));
    at += step.n_bytes;
  }
  return out;
}

double BagF1(const Words& prediction, const Words& answer) {
  std::map<std::string, int> left;
  for (const std::string& word : answer) ++left[word];
  double same = 0;
  for (const std::string& word : prediction) {
    const auto it = left.find(word);
    if (it == left.end() || it->second == 0) continue;
    --it->second;
    ++same;
  }
  if (same == 0) return 0;
  const double precision = same / static_cast<double>(prediction.size()),
               recall = same / static_cast<double>(answer.size());
  return 2 * precision * recall / (precision + recall);
}

// Lengths of the longest common subsequences of all pairs of prefixes, [n + 1][m + 1].
template <typename Sequence>
std::vector<uint32_t> LcsTable(const Sequence& x, const Sequence& y) {
  const size_t width = y.size() + 1;
  std::vector<uint32_t> table((x.size() + 1) * width, 0);
  for (size_t i = 1; i <= x.size(); ++i) {
    for (size_t j = 1; j < width; ++j) {
      table[i * width + j] = x[i - 1] == y[j - 1] ? table[(i - 1) * width + j - 1] + 1
                                                  : std::max(table[(i - 1) * width + j], table[i * width + j - 1]);
    }
  }
  return table;
}

void AddCommonWords(const Words& reference, const Words& prediction, std::set<std::string>* common) {
  const std::vector<uint32_t> table = LcsTable(reference, prediction);
  const size_t width = prediction.size() + 1;
  for (size_t i = reference.size(), j = prediction.size(); i > 0 && j > 0;) {
    if (reference[i - 1] == prediction[j - 1]) {
      common->insert(reference[i - 1]);
      --i, --j;
    } else if (table[(i - 1) * width + j] > table[i * width + j - 1]) {
      --i;
    } else {
      --j;
    }
  }
}

// The words of each sentence; sentences end at full stops.
std::vector<Words> Sentences(std::string_view text) {
  std::vector<Words> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find('.', at), text.size());
    Words words = SplitAtSpace(text.substr(at, end - at));
    if (!words.empty()) out.push_back(std::move(words));
    at = end + 1;
  }
  return out;
}

double RougeOf(const std::vector<Words>& prediction, const std::vector<Words>& reference) {
  std::set<std::string> common, predicted, wanted;
  for (const Words& words : prediction) predicted.insert(words.begin(), words.end());
  for (const Words& words : reference) wanted.insert(words.begin(), words.end());
  if (predicted.empty() || wanted.empty()) return 0;
  for (const Words& of_reference : reference) {
    for (const Words& of_prediction : prediction) AddCommonWords(of_reference, of_prediction, &common);
  }
  const auto n = static_cast<double>(common.size());
  const double recall = n / static_cast<double>(wanted.size()), precision = n / static_cast<double>(predicted.size());
  return 2 * precision * recall / (precision + recall + 1e-8);
}

std::vector<std::string> NumbersIn(std::string_view text) {
  std::vector<std::string> numbers;
  std::string number;
  for (const char c : text) {
    if (c >= '0' && c <= '9') {
      number += c;
    } else if (!number.empty()) {
      numbers.push_back(std::move(number));
      number.clear();
    }
  }
  if (!number.empty()) numbers.push_back(std::move(number));
  return numbers;
}

}  // namespace

std::string NormalizeAnswer(std::string_view text) {
  std::string bare;
  for (const char c : LowercaseText(text)) {
    if (kPunctuation.find(c) == std::string_view::npos) bare += c;
  }
  std::string out;
  for (const std::string& word : SplitAtSpace(bare)) {
    if (word == "a" || word == "an" || word == "the") continue;
    out += (out.empty() ? "" : " ") + word;
  }
  return out;
}

double QaF1(std::string_view prediction, std::string_view answer) {
  return BagF1(SplitAtSpace(NormalizeAnswer(prediction)), SplitAtSpace(NormalizeAnswer(answer)));
}

double QaF1ByCharacter(std::string_view prediction, std::string_view answer) {
  static const std::set<std::string> chinese = [] {
    const Words all = Characters(
        "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝"
        "〞〟〰–—‘’‛“”„‟…‧﹏.");
    return std::set<std::string>(all.begin(), all.end());
  }();
  const auto characters = [](std::string_view text) {
    Words out = Characters(LowercaseText(text));
    std::erase_if(out, [](const std::string& c) {
      return (c.size() == 1 && kPunctuation.find(c[0]) != std::string_view::npos) || chinese.count(c) > 0;
    });
    return out;
  };
  return BagF1(characters(prediction), characters(answer));
}

double RougeL(std::string_view prediction, std::string_view answer) {
  return RougeOf(Sentences(prediction), Sentences(answer));
}

double RougeLByCharacter(std::string_view prediction, std::string_view answer) {
  // The original joins the words of a cut text with blanks and passes them to ROUGE, so full stops still end sentences.
  const auto spaced = [](std::string_view text) {
    std::string out;
    for (const std::string& c : Characters(text)) out += c + " ";
    return out;
  };
  return RougeL(spaced(prediction), spaced(answer));
}

double Classification(std::string_view prediction, std::string_view answer, const std::vector<std::string>& classes) {
  double matches = 0;
  bool found = false;
  for (const std::string& name : classes) {
    if (prediction.find(name) == std::string_view::npos) continue;
    if (name != answer && answer.find(name) != std::string_view::npos) continue;
    ++matches;
    found = found || name == answer;
  }
  return found ? 1 / matches : 0;
}

double NumberShare(std::string_view prediction, std::string_view answer) {
  const std::vector<std::string> numbers = NumbersIn(prediction), wanted = NumbersIn(answer);
  if (numbers.empty() || wanted.empty()) return 0;
  const auto right = std::count(numbers.begin(), numbers.end(), wanted[0]);
  return static_cast<double>(right) / static_cast<double>(numbers.size());
}

double CodeSimilarity(std::string_view prediction, std::string_view answer) {
  prediction = TrimStart(prediction, "\n");
  std::string_view line;
  for (size_t at = 0; at <= prediction.size();) {
    const size_t end = std::min(prediction.find('\n', at), prediction.size());
    line = prediction.substr(at, end - at);
    if (line.find_first_of("`#") == std::string_view::npos && line.find("//") == std::string_view::npos) break;
    line = {};
    at = end + 1;
  }
  const std::u32string x = CodePoints(line), y = CodePoints(answer);
  if (x.empty() || y.empty()) return 0;
  const double same = LcsTable(x, y).back();
  return std::round(200 * same / static_cast<double>(x.size() + y.size())) / 100;
}

char ChosenLetter(std::string_view prediction) {
  std::string text(prediction);
  std::erase(text, '*');
  for (const char* lead : {"The correct answer is (", "The correct answer is "}) {
    for (size_t at = text.find(lead); at != std::string::npos; at = text.find(lead, at + 1)) {
      const size_t letter = at + std::string_view(lead).size();
      if (letter < text.size() && text[letter] >= 'A' && text[letter] <= 'D') return text[letter];
    }
  }
  return 0;
}

}  // namespace duo
