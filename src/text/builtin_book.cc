#include "text/builtin_book.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "text/passkey_words.h"

namespace duo {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 31;
// With fewer sentences between the facts, nothing would be hidden.
constexpr int64_t kSentencesPerFact = 2;

// The prose itself is about the first eight, so a fact about Anna hides among sentences about Anna.
constexpr std::array<const char*, kMaxCodes> kNames = {
    "Anna",   "Boris",  "Clara", "David", "Elena", "Felix",  "Maria",   "Peter",     "Rosa",        "Hugo",
    "Nina",   "Karl",   "Laura", "Simon", "Julia", "Thomas", "Emma",    "Paul",      "Sara",        "Martin",
    "Lucy",   "Frank",  "Helen", "Jack",  "Alice", "Bruno",  "Diana",   "Erik",      "Fiona",       "Georg",
    "Ida",    "Jonas",  "Katya", "Leon",  "Mona",  "Nils",   "Olga",    "Rufus",     "Sven",        "Tilda",
    "Ursula", "Viktor", "Wanda", "Yusuf", "Zelda", "Isolde", "Quentin", "Priscilla", "Bartholomew", "Xanthe"};
constexpr uint64_t kStoryNames = 8;

struct Topic {
  std::array<const char*, 6> nouns;
  std::array<const char*, 6> plurals;
  std::array<const char*, 3> verbs;  // singular; the plural is one letter shorter
  std::array<const char*, 3> adjectives;
};

constexpr std::array<Topic, 6> kTopics = {{
    {{"sailor", "ship", "harbor", "wave", "gull", "captain"},
     {"sailors", "ships", "harbors", "waves", "gulls", "captains"},
     {"sails", "drifts", "anchors"},
     {"salty", "stormy", "blue"}},
    {{"farmer", "cow", "barn", "field", "horse", "plow"},
     {"farmers", "cows", "barns", "fields", "horses", "plows"},
     {"grows", "feeds", "harvests"},
     {"muddy", "golden", "ripe"}},
    {{"merchant", "street", "market", "tower", "clerk", "lamp"},
     {"merchants", "streets", "markets", "towers", "clerks", "lamps"},
     {"trades", "builds", "climbs"},
     {"busy", "narrow", "loud"}},
    {{"hunter", "wolf", "oak", "river", "fox", "trail"},
     {"hunters", "wolves", "oaks", "rivers", "foxes", "trails"},
     {"hunts", "howls", "hides"},
     {"dark", "green", "wild"}},
    {{"soldier", "king", "sword", "castle", "knight", "banner"},
     {"soldiers", "kings", "swords", "castles", "knights", "banners"},
     {"fights", "guards", "rides"},
     {"brave", "iron", "royal"}},
    {{"mother", "child", "kitchen", "fire", "cat", "bread"},
     {"mothers", "children", "kitchens", "fires", "cats", "breads"},
     {"cooks", "sleeps", "sings"},
     {"warm", "small", "quiet"}},
}};

struct Sentence {
  std::string text;
  bool begins_paragraph = false;
};

enum class Subject : uint8_t { kShe, kHe, kThing, kThey };

/// Endless prose from a small grammar: topics drift, verbs fit their objects, and pronouns agree.
class Prose {
 public:
  explicit Prose(uint64_t seed) : rng_(seed) {}

  Sentence Next() {
    if (Chance(0.12)) topic_ = &kTopics[rng_.Below(kTopics.size())];
    words_.clear();
    const Subject subject = AddSubject();
    if (Chance(0.35)) Add(std::string(Pick(kPlaces)) + " the " + Pick(topic_->nouns));
    if (Chance(0.25)) Add(Pick(kAdverbs));
    const uint64_t verb = rng_.Below(3);
    Add(Verb(verb, subject));
    if (Chance(0.7)) AddObject(verb, subject);
    if (Chance(0.35)) AddClause(subject);
    words_ += '.';
    return {words_, Chance(0.08)};
  }

 private:
  static constexpr std::array<const char*, 4> kPlaces = {"near", "with", "under", "beside"};
  static constexpr std::array<const char*, 4> kAdverbs = {"slowly", "again", "often", "never"};
  static constexpr std::array<const char*, 3> kJoins = {"and", "but", "then"};

  bool Chance(double p) { return rng_.Uniform() < p; }
  template <size_t n>
  const char* Pick(const std::array<const char*, n>& from) {
    return from[rng_.Below(n)];
  }
  void Add(std::string_view word) {
    if (!words_.empty()) words_ += ' ';
    words_ += word;
  }
  std::string Verb(uint64_t i, Subject subject) const {
    std::string verb = topic_->verbs[i];
    if (subject == Subject::kThey) verb.pop_back();
    return verb;
  }

  Subject AddSubject() {
    const double kind = rng_.Uniform();
    if (kind < 0.25) {
      const uint64_t i = rng_.Below(kStoryNames);
      Add(kNames[i]);
      // The story's women and men alternate in the list.
      return i % 2 == 0 ? Subject::kShe : Subject::kHe;
    }
    const bool plural = kind >= 0.65;
    const bool definite = plural || Chance(0.7);
    std::string phrase = Chance(0.4) ? std::string(Pick(topic_->adjectives)) + " " : "";
    noun_ = rng_.Below(6);
    phrase += plural ? topic_->plurals[noun_] : topic_->nouns[noun_];
    const bool vowel = std::string_view("aeiou").find(phrase[0]) != std::string_view::npos;
    Add(definite ? "The" : vowel ? "An" : "A");
    Add(phrase);
    return plural ? Subject::kThey : Subject::kThing;
  }

  void AddObject(uint64_t verb, Subject subject) {
    static constexpr std::array<const char*, 4> kOwners = {"her", "his", "the", "their"};
    Add(kOwners[static_cast<size_t>(subject)]);
    if (Chance(0.5)) Add(topic_->adjectives[verb]);
    Add(topic_->nouns[verb * 2 + rng_.Below(2)]);
  }

  void AddClause(Subject subject) {
    static constexpr std::array<const char*, 4> kPronouns = {"she", "he", "the", "they"};
    words_ += ',';
    Add(Pick(kJoins));
    Add(kPronouns[static_cast<size_t>(subject)]);
    if (subject == Subject::kThing) Add(topic_->nouns[noun_]);
    Add(Verb(rng_.Below(3), subject));
  }

  Rng rng_;
  const Topic* topic_ = kTopics.data();
  uint64_t noun_ = 0;  // of the subject
  std::string words_;
};

/// How a needle is set in the text.
enum class Placement : uint8_t { kOwnParagraph, kOwnLine, kInParagraph };

struct HiddenFact {
  Fact fact;
  Placement placement = Placement::kOwnParagraph;
  bool full_stop = true;
  double position = 0;  // share of the sentences that come before it
};

template <typename T>
void Shuffle(Rng* rng, std::vector<T>* items) {
  for (size_t i = items->size(); i > 1; --i) std::swap((*items)[i - 1], (*items)[rng->Below(i)]);
}

template <size_t n>
std::vector<std::string> Shuffled(Rng* rng, const std::array<const char*, n>& words) {
  std::vector<std::string> out(words.begin(), words.end());
  Shuffle(rng, &out);
  return out;
}

Status CheckOptions(const BookOptions& o) {
  const auto is = [&](FactKind kind) { return std::find(o.kinds.begin(), o.kinds.end(), kind) != o.kinds.end(); };
  const int most = (is(FactKind::kPasskey) ? kMaxPasskeys : 0) + (is(FactKind::kCode) ? kMaxCodes : 0);
  if (o.n_tokens < 1 || o.n_tokens > kMaxTokens) {
    return BadOption("n_tokens", o.n_tokens, fmt::format("1..{}", kMaxTokens));
  }
  if (o.n_facts < 0 || o.n_facts > most) {
    return BadOption("n_facts", o.n_facts,
                     fmt::format("0..{}, because each has a name or an ordinal of its own", most));
  }
  if (!(o.depth_begin >= 0 && o.depth_begin <= o.depth_end && o.depth_end <= 1)) {
    return InvalidArgument("the depths of facts: expected 0 <= begin <= end <= 1");
  }
  if (o.min_words < 1 || o.max_words < o.min_words || o.max_words > std::ssize(kNatoWords)) {
    return InvalidArgument("words of a passkey: expected 1 <= min <= max <= 26, because all words of a passkey differ");
  }
  if (o.min_digits < 1 || o.max_digits < o.min_digits || o.max_digits > 18) {
    return InvalidArgument("digits of a code: expected 1 <= min <= max <= 18");
  }
  return OkStatus();
}

class FactMaker {
 public:
  FactMaker(const BookOptions& options, Rng* rng)
      : options_(options), rng_(rng), ordinals_(Shuffled(rng, kOrdinals)), names_(Shuffled(rng, kNames)) {}

  /// kInvalidArgument when there are not enough different answers.
  Status Make(std::vector<HiddenFact>* out) {
    for (const FactKind kind : DrawKinds()) {
      HiddenFact hidden;
      hidden.fact = kind == FactKind::kPasskey ? Passkey() : Code();
      // A short answer may be part of another (a code of one digit), so draw again, but with a limit.
      for (int tries = 0; Overlaps(hidden.fact, *out); ++tries) {
        if (tries == 1000) {
          return InvalidArgument("so few words or digits cannot make {} different answers", options_.n_facts)
              .About("n_facts");
        }
        hidden.fact.answer = kind == FactKind::kPasskey ? DrawWords() : DrawDigits();
      }
      hidden.fact.needle += " " + hidden.fact.answer;
      const double style = rng_->Uniform();
      hidden.placement = style < 0.5    ? Placement::kOwnParagraph
                         : style < 0.65 ? Placement::kOwnLine
                                        : Placement::kInParagraph;
      hidden.full_stop =
          kind == FactKind::kCode || hidden.placement == Placement::kInParagraph || rng_->Uniform() < 0.1;
      out->push_back(std::move(hidden));
    }
    return OkStatus();
  }

 private:
  std::vector<FactKind> DrawKinds() const {
    std::vector<FactKind> kinds;
    int left[2] = {kMaxPasskeys, kMaxCodes};
    for (size_t turn = 0; std::ssize(kinds) < options_.n_facts; ++turn) {
      const FactKind kind = options_.kinds[turn % options_.kinds.size()];
      if (left[static_cast<size_t>(kind)]-- > 0) kinds.push_back(kind);
    }
    Shuffle(rng_, &kinds);
    return kinds;
  }

  int DrawBetween(int least, int most) { return least + rng_->Below(most - least + 1); }

  std::string DrawWords() {
    const std::vector<std::string> words = Shuffled(rng_, kNatoWords);
    const size_t n = DrawBetween(options_.min_words, options_.max_words);
    std::string out = words[0];
    for (size_t i = 1; i < n; ++i) out += " " + words[i];
    return out;
  }
  std::string DrawDigits() {
    std::string out(DrawBetween(options_.min_digits, options_.max_digits), '0');
    for (char& digit : out) digit = '0' + rng_->Below(10);
    return out;
  }

  Fact Passkey() {
    const std::string key = ordinals_[n_passkeys_++];
    return {.kind = FactKind::kPasskey,
            .needle = "Remember this sequence of words, it's the " + key + " passkey to the vault:",
            .question = "Based on the content of the book, what is the " + key + " passkey to the vault?\nPasskey: ",
            .answer = DrawWords()};
  }
  Fact Code() {
    const std::string key = names_[n_codes_++];
    return {.kind = FactKind::kCode,
            .needle = "The secret code of " + key + " is",
            .question = "What is the secret code of " + key + "?\nAnswer: ",
            .answer = DrawDigits()};
  }

  static bool Overlaps(const Fact& fact, const std::vector<HiddenFact>& others) {
    return std::any_of(others.begin(), others.end(), [&](const HiddenFact& other) {
      return other.fact.answer.find(fact.answer) != std::string::npos ||
             fact.answer.find(other.fact.answer) != std::string::npos;
    });
  }

  const BookOptions& options_;
  Rng* rng_;
  std::vector<std::string> ordinals_, names_;
  size_t n_passkeys_ = 0, n_codes_ = 0;
};

/// Combines sentences and facts. The sentences always come in the same order, so a longer book is a shorter one with
/// more text between its facts.
class Binder {
 public:
  Binder(std::vector<HiddenFact> facts, uint64_t prose_seed) : prose_(prose_seed), facts_(std::move(facts)) {}

  std::string Bind(int64_t n_sentences) {
    while (std::ssize(sentences_) < n_sentences) sentences_.push_back(prose_.Next());
    text_ = kBookBegin;
    separator_ = " ";
    size_t next = 0;
    for (int64_t i = 0; i < n_sentences; ++i) {
      while (next < facts_.size() && FactSentence(facts_[next], n_sentences) <= i) AddFact(facts_[next++]);
      const Sentence& sentence = sentences_[i];
      Add(i > 0 && sentence.begins_paragraph ? "\n\n" : "", sentence.text);
    }
    while (next < facts_.size()) AddFact(facts_[next++]);
    Add(separator_ == "\n" ? "\n\n" : "", kBookEnd);
    return text_;
  }

  std::vector<Fact> Facts() const {
    std::vector<Fact> out;
    for (const HiddenFact& hidden : facts_) {
      out.push_back(hidden.fact);
      out.back().depth = static_cast<double>(text_.find(hidden.fact.needle)) / static_cast<double>(text_.size());
    }
    return out;
  }

 private:
  static int64_t FactSentence(const HiddenFact& fact, int64_t n_sentences) {
    return std::max<int64_t>(2, std::llround(fact.position * n_sentences));
  }

  /// `separator` is what the unit needs before it; the previous unit may need more.
  void Add(std::string_view separator, std::string_view unit) {
    text_ += separator.size() > separator_.size() || (separator == "\n" && separator_ == " ") ? separator : separator_;
    text_ += unit;
    separator_ = " ";
  }
  void AddFact(const HiddenFact& hidden) {
    Add(hidden.placement == Placement::kOwnParagraph ? "\n\n"
        : hidden.placement == Placement::kOwnLine    ? "\n"
                                                     : "",
        hidden.fact.needle);
    if (hidden.full_stop) {
      text_ += '.';
    } else {
      separator_ = "\n";  // otherwise nothing marks the end of the passkey's words
    }
  }

  Prose prose_;
  std::vector<HiddenFact> facts_;
  std::vector<Sentence> sentences_;
  std::string text_;
  std::string_view separator_;
};

}  // namespace

Result<Book> MakeBook(const BookOptions& options, const TokenCounter& count_tokens) {
  DUO_RETURN_IF_ERROR(CheckOptions(options));
  Rng rng(options.seed);
  const uint64_t prose_seed = rng.Next();
  std::vector<HiddenFact> facts;
  DUO_RETURN_IF_ERROR(FactMaker(options, &rng).Make(&facts));
  const double step = (options.depth_end - options.depth_begin) / std::max(1, options.n_facts);
  for (size_t i = 0; i < facts.size(); ++i) {
    const double jitter = (rng.Uniform() - 0.5) * 0.5;
    facts[i].position = options.depth_begin + step * (i + 0.5 + jitter);
  }
  Binder binder(std::move(facts), prose_seed);

  // Finds about the largest number of sentences that fits: interpolates from one that fits towards one that does not.
  int64_t fits = std::max<int64_t>(1, kSentencesPerFact * options.n_facts);
  int64_t fits_tokens = count_tokens(binder.Bind(fits));
  if (fits_tokens > options.n_tokens) {
    return InvalidArgument("{} facts and a little text around them need {} tokens, but n_tokens is {}", options.n_facts,
                           fits_tokens, options.n_tokens)
        .About("n_tokens");
  }
  double tokens_per_sentence = 12;
  int64_t too_many = kMaxTokens;
  while (too_many - fits > 1 && options.n_tokens - fits_tokens > options.n_tokens / 500) {
    const double guess = (options.n_tokens - fits_tokens) / tokens_per_sentence;
    const int64_t middle = std::clamp(fits + std::max<int64_t>(1, std::llround(guess)), fits + 1, too_many - 1);
    const int64_t tokens = count_tokens(binder.Bind(middle));
    if (middle > fits && tokens > fits_tokens) {
      tokens_per_sentence = static_cast<double>(tokens - fits_tokens) / static_cast<double>(middle - fits);
    }
    if (tokens <= options.n_tokens) {
      fits = middle;
      fits_tokens = tokens;
    } else {
      too_many = middle;
    }
  }
  Book book;
  book.text = binder.Bind(fits);
  book.facts = binder.Facts();
  return book;
}

}  // namespace duo
