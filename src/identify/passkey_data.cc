#include "identify/passkey_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/rng.h"
#include "base/strings.h"
#include "text/passkey_words.h"

namespace duo {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 20;
constexpr int kMaxWords = 4096;
// Upper bound for the frame, the separators and the words between questions. No text may be longer than announced.
constexpr int64_t kExtraTokens = 64;
// This many bytes of the haystack are encoded to measure how long its tokens are.
constexpr size_t kProbeBytes = size_t{1} << 20;

std::string Needle(int number, const std::string& words) {
  return std::string("Remember this sequence of words, it's the ") + kOrdinals[number] +
         " passkey to the vault: " + words;
}

std::string Question(int number) {
  return std::string("Based on the content of the book, what is the ") + kOrdinals[number] +
         " passkey to the vault?\nPasskey: ";
}

// The next place, at or soon after `at`, where a paragraph can be inserted. This is after the end of a sentence or
// line, else after a space, else between two characters (scripts without spaces).
size_t NextBreak(const std::string& text, size_t at) {
  constexpr size_t kSearchBytes = 600;
  const size_t end = std::min(text.size(), at + kSearchBytes);
  for (size_t i = at; i < end; ++i) {
    const bool sentence = text[i] == ' ' && i > 0 && (text[i - 1] == '.' || text[i - 1] == '!' || text[i - 1] == '?');
    if (text[i] == '\n' || sentence) return i + 1;
  }
  const size_t space = text.find(' ', at);
  if (space < end) return space + 1;
  while (at < text.size() && IsUtf8Continuation(text[at])) ++at;
  return at;
}

// Returns a stream of random numbers for each seed and index. The streams do not overlap, because their SplitMix64
// states are multiples of the golden ratio apart.
Rng RngFor(uint64_t seed, uint64_t index) {
  Rng mix(seed * 0x9e3779b97f4a7c15ull + index);
  return Rng(mix.Next());
}

}  // namespace

Status TrainingTexts::CheckOptions() const {
  const PasskeyOptions& o = options_;
  if (o.n_passkeys < 1 || o.n_passkeys > kMaxPasskeys) {
    return BadOption("n_passkeys", o.n_passkeys, fmt::format("1..{}", kMaxPasskeys));
  }
  if (o.n_words < 1 || o.n_words > kMaxWords) {
    return BadOption("n_words", o.n_words, fmt::format("1..{}", kMaxWords));
  }
  if (o.min_length < 16 || o.max_length < o.min_length || o.max_length > kMaxTokens) {
    return InvalidArgument("texts of {} to {} tokens, expected 16..{} in increasing order", o.min_length, o.max_length,
                           kMaxTokens)
        .About("max_length");
  }
  if (o.n_lengths < 1) return BadOption("n_lengths", o.n_lengths, "1 or more");
  if (!(o.depth_begin >= 0 && o.depth_begin < o.depth_end && o.depth_end <= 1)) {
    return InvalidArgument("depths of {:f} to {:f}, expected 0..1 in increasing order", o.depth_begin, o.depth_end)
        .About("depth_begin");
  }
  return OkStatus();
}

Result<TrainingTexts> TrainingTexts::InHaystack(const Tokenizer& tokenizer, const PasskeyOptions& options,
                                                std::string haystack) {
  TrainingTexts texts(tokenizer, options);
  DUO_RETURN_IF_ERROR(texts.CheckOptions());
  if (options.n_depths < options.n_passkeys) {
    return InvalidArgument("{} depths for {} passkeys; every passkey needs its own", options.n_depths,
                           options.n_passkeys)
        .About("n_depths");
  }
  // Counts the tokens of the whole haystack only if it may be too short. Tokens rarely have more than a few dozen
  // bytes.
  size_t probe = std::min(haystack.size(), std::max<size_t>(kProbeBytes, options.max_length * 32));
  const auto count = [&](size_t bytes) {
    return std::ssize(tokenizer.Encode(std::string_view(haystack).substr(0, bytes), SpecialTokens::kNone));
  };
  int64_t n_tokens = count(probe);
  while (n_tokens < options.max_length && probe < haystack.size()) {
    probe = std::min(haystack.size(), 2 * probe);
    n_tokens = count(probe);
  }
  if (n_tokens < options.max_length) {
    return InvalidArgument("the text has {} tokens; training texts of up to {} tokens need at least as many", n_tokens,
                           options.max_length)
        .About("text");
  }
  texts.bytes_per_token_ = static_cast<double>(probe) / static_cast<double>(n_tokens);
  texts.haystack_ = std::move(haystack);
  int64_t word = 0, question = 0;
  for (const char* name : kNatoWords) {
    word = std::max(word, std::ssize(tokenizer.Encode(std::string(" ") + name, SpecialTokens::kNone)));
  }
  for (int i = 0; i < kMaxPasskeys; ++i) {
    const std::string both = Needle(i, "") + Question(i);
    question = std::max(question, std::ssize(tokenizer.Encode(both, SpecialTokens::kNone)));
  }
  texts.max_text_tokens_ =
      options.max_length + kExtraTokens + options.n_passkeys * (question + 2 * options.n_words * word + 16);
  return texts;
}

Result<TrainingTexts> TrainingTexts::InFiles(const Tokenizer& tokenizer, const PasskeyOptions& options,
                                             const std::string& path) {
  Result<Haystack> haystack = LoadHaystack(path);
  if (!haystack.ok()) return haystack.status().About("text");
  DUO_ASSIGN_OR_RETURN(TrainingTexts texts, InHaystack(tokenizer, options, std::move(haystack->text)));
  texts.truncated_ = haystack->truncated;
  return texts;
}

Result<TrainingTexts> TrainingTexts::Builtin(const Tokenizer& tokenizer, const PasskeyOptions& options) {
  TrainingTexts texts(tokenizer, options);
  DUO_RETURN_IF_ERROR(texts.CheckOptions());
  int64_t question = 0;
  for (int i = 0; i < kMaxPasskeys; ++i) {
    question = std::max(question, std::ssize(tokenizer.Encode(Question(i), SpecialTokens::kNone)));
  }
  Rng rng = RngFor(options.seed, 0);
  const Result<std::string> shortest = texts.BuiltinText(&rng, options.min_length, 1, nullptr);
  if (!shortest.ok()) {
    return shortest.status().Annotate(fmt::format("texts of {} tokens", options.min_length)).About("min_length");
  }
  constexpr int64_t kAnswerTokens = 64;  // 8 words or 6 digits
  texts.max_text_tokens_ = options.max_length + kExtraTokens + options.n_passkeys * (question + kAnswerTokens);
  return texts;
}

Status TrainingTexts::CheckPasskeysFit() const {
  if (!haystack_.empty()) return OkStatus();  // in a haystack, passkeys are added to max_length
  Rng rng = RngFor(options_.seed, 0);
  const Result<std::string> longest = BuiltinText(&rng, options_.max_length, options_.n_passkeys, nullptr);
  return longest.status()
      .Annotate(fmt::format("{} passkeys in texts of up to {} tokens", options_.n_passkeys, options_.max_length))
      .About("n_passkeys");
}

Result<TrainingText> TrainingTexts::Make(uint64_t index) const {
  return haystack_.empty() ? MakeBuiltin(index) : MakeInHaystack(index);
}

int64_t TrainingTexts::DrawLength(Rng* rng) const {
  const auto i = static_cast<int64_t>(rng->Below(options_.n_lengths));
  if (options_.n_lengths == 1) return options_.max_length;
  return options_.min_length + (options_.max_length - options_.min_length) * i / (options_.n_lengths - 1);
}

TrainingText TrainingTexts::Join(const std::string& context, const std::string& questions) const {
  TrainingText text;
  text.ids = tokenizer_->Encode(context, SpecialTokens::kAdd);
  // A post-processor may append eos. The text continues with the questions, so eos is removed.
  if (tokenizer_->eos_id() >= 0 && text.ids.size() > 1 && text.ids.back() == tokenizer_->eos_id()) text.ids.pop_back();
  const std::vector<int32_t> asked = tokenizer_->Encode(questions, SpecialTokens::kNone);
  text.labels.begin = std::ssize(text.ids);
  text.ids.insert(text.ids.end(), asked.begin(), asked.end());
  text.labels.end = std::ssize(text.ids);
  return text;
}

// A cut inside a character leaves bytes that decode to U+FFFD. Some tokenizers also decode the whole run of bytes
// before it to U+FFFD.
std::string TrainingTexts::WholeCharacters(std::vector<int32_t> ids) const {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  std::string text = tokenizer_->Decode(ids, SpecialTokens::kAdd);
  for (int i = 0; i < 3 && text.size() >= kReplacement.size() && text.compare(text.size() - 3, 3, kReplacement) == 0;
       ++i) {
    ids.pop_back();
    text = tokenizer_->Decode(ids, SpecialTokens::kAdd);
  }
  return text;
}

std::string TrainingTexts::Slice(Rng* rng, int64_t n_tokens) const {
  const auto wanted = static_cast<size_t>(std::ceil(static_cast<double>(n_tokens) * bytes_per_token_ * 1.25)) + 64;
  size_t begin = 0;
  if (haystack_.size() > wanted) {
    begin = NextBreak(haystack_, rng->Below(haystack_.size() - wanted + 1));
    begin = std::min(begin, haystack_.size() - wanted);
  }
  while (begin > 0 && begin < haystack_.size() && IsUtf8Continuation(haystack_[begin])) --begin;
  for (size_t bytes = wanted;; bytes *= 2) {
    std::vector<int32_t> ids =
        tokenizer_->Encode(std::string_view(haystack_).substr(begin, bytes), SpecialTokens::kNone);
    if (std::ssize(ids) < n_tokens && begin + bytes < haystack_.size()) continue;
    // The tokens are long and the rest of the haystack is too short: start again from the front.
    if (std::ssize(ids) < n_tokens && begin > 0) {
      begin = 0;
      continue;
    }
    ids.resize(std::min<size_t>(ids.size(), n_tokens));
    return WholeCharacters(std::move(ids));
  }
}

Result<std::vector<int32_t>> TrainingTexts::Plain(uint64_t index, int64_t n_tokens) const {
  Rng rng = RngFor(options_.seed, index);
  std::string text;
  if (haystack_.empty()) {
    DUO_ASSIGN_OR_RETURN(text, BuiltinText(&rng, n_tokens, 1, nullptr));
  } else {
    text = Slice(&rng, n_tokens);
  }
  std::vector<int32_t> ids = Join(text, "").ids;
  ids.resize(std::min<size_t>(ids.size(), n_tokens));
  return ids;
}

Result<TrainingText> TrainingTexts::MakeInHaystack(uint64_t index) const {
  Rng rng = RngFor(options_.seed, index);
  const std::string hay = Slice(&rng, DrawLength(&rng));
  std::set<uint64_t> depths;
  while (std::ssize(depths) < options_.n_passkeys) {
    depths.insert(rng.Below(options_.n_depths));
  }
  std::string context = std::string(kBookBegin) + " ", questions;
  size_t copied = 0;
  int number = 0;
  for (const uint64_t depth : depths) {
    const double share = options_.n_depths == 1 ? 0.0 : static_cast<double>(depth) / (options_.n_depths - 1);
    const double place = options_.depth_begin + (options_.depth_end - options_.depth_begin) * share;
    const size_t at = NextBreak(hay, std::max(copied, static_cast<size_t>(place * static_cast<double>(hay.size()))));
    std::string words;
    for (int i = 0; i < options_.n_words; ++i) {
      words += (i == 0 ? "" : " ") + std::string(kNatoWords[rng.Below(kNatoWords.size())]);
    }
    context += hay.substr(copied, at - copied) + "\n\n" + Needle(number, words) + "\n\n";
    copied = at;
    questions += Question(number) + words + "\n\n";
    ++number;
  }
  context += hay.substr(copied) + " " + std::string(kBookEnd);
  return Join(context, questions);
}

Result<TrainingText> TrainingTexts::MakeBuiltin(uint64_t index) const {
  Rng rng = RngFor(options_.seed, index);
  const int64_t n_tokens = DrawLength(&rng);
  std::string questions;
  const Result<std::string> text = BuiltinText(&rng, n_tokens, 1, &questions);
  if (!text.ok()) return text.status();
  return Join(*text, questions);
}

// Facts differ in length. If the facts of one seed do not fit, those of the next may.
Result<std::string> TrainingTexts::BuiltinText(Rng* rng, int64_t n_tokens, int min_facts,
                                               std::string* questions) const {
  constexpr int kTries = 32;
  const TokenCounter count = [this](std::string_view text) { return std::ssize(tokenizer_->Encode(text)); };
  Status failure;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    const uint64_t seed = rng->Next();
    for (int n_facts = options_.n_passkeys; n_facts >= min_facts; --n_facts) {
      Result<Book> book = MakeBook({.n_tokens = n_tokens,
                                    .n_facts = n_facts,
                                    .seed = seed,
                                    .depth_begin = options_.depth_begin,
                                    .depth_end = options_.depth_end},
                                   count);
      if (!book.ok()) {
        failure = book.status();
        continue;
      }
      for (const Fact& fact : book->facts) {
        if (questions != nullptr) *questions += fact.question + fact.answer + "\n\n";
      }
      return std::move(book->text);
    }
  }
  return failure;
}

}  // namespace duo
