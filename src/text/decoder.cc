#include "text/decoder.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/json_part.h"
#include "text/limits.h"
#include "text/utf8.h"

namespace duo {

class Decoder::Spec {
 public:
  virtual ~Spec() = default;
  /// Starts a step that passes its text to `next`.
  virtual std::unique_ptr<DecodeStep> Start(DecodeStep* next) const = 0;
};

namespace {

constexpr const char* kKnown = "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, Sequence";
constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581

template <typename StepType, typename Options>
class SpecOf final : public Decoder::Spec {
 public:
  explicit SpecOf(Options options) : options_(std::move(options)) {}
  std::unique_ptr<DecodeStep> Start(DecodeStep* next) const override {
    return std::make_unique<StepType>(options_, next);
  }

 private:
  Options options_;
};

class AppendStep final : public DecodeStep {
 public:
  explicit AppendStep(std::string* out) : out_(out) {}
  void Take(std::string_view text) override { *out_ += text; }

 private:
  std::string* out_;
};

// A step with a successor. `next_` outlives it.
class LinkedStep : public DecodeStep {
 public:
  explicit LinkedStep(DecodeStep* next) : next_(next) {}
  void Finish() override { next_->Finish(); }

 protected:
  DecodeStep* next_;
};

// A step that holds bytes back until it is certain what they mean.
class HoldingStep : public LinkedStep {
 public:
  using LinkedStep::LinkedStep;
  void Finish() override {
    Release(pending_.size());
    LinkedStep::Finish();
  }

 protected:
  // Passes the first n pending bytes to Emit.
  void Release(size_t n) {
    if (n == 0) return;
    const std::string bytes = pending_.substr(0, n);
    pending_.erase(0, n);
    Emit(bytes);
  }
  virtual void Emit(std::string_view bytes) = 0;

  std::string pending_;
};

struct JoinOptions {};
class JoinStep final : public LinkedStep {
 public:
  JoinStep(const JoinOptions&, DecodeStep* next) : LinkedStep(next) {}
  void Take(std::string_view token) override {
    if (!first_) next_->Take(" ");
    first_ = false;
    next_->Take(token);
  }

 private:
  bool first_ = true;
};

struct ByteLevelOptions {};
class ByteLevelStep final : public HoldingStep {
 public:
  ByteLevelStep(const ByteLevelOptions&, DecodeStep* next) : HoldingStep(next) {}
  void Take(std::string_view token) override {
    const std::optional<std::string> bytes = BytesFromAlphabet(token);
    pending_ += bytes.has_value() ? std::string_view(*bytes) : token;
    Release(DecidedPrefix(pending_));  // all but an unfinished character
  }

 private:
  void Emit(std::string_view bytes) override {
    std::string text;
    AppendReplacingInvalid(bytes, &text);
    next_->Take(text);
  }
};

struct MetaspaceOptions {
  std::string replacement;
  bool drop_in_first_token;
};
class MetaspaceStep final : public LinkedStep {
 public:
  MetaspaceStep(const MetaspaceOptions& options, DecodeStep* next)
      : LinkedStep(next), mark_(Pattern::Literal(options.replacement)), drop_(options.drop_in_first_token) {}
  void Take(std::string_view token) override {
    next_->Take(mark_.ReplaceAll(token, drop_ ? "" : " "));
    drop_ = false;
  }

 private:
  Pattern mark_;
  bool drop_;
};

struct ReplaceOptions {
  Pattern pattern;
  std::string content;
};
class ReplaceStep final : public LinkedStep {
 public:
  ReplaceStep(const ReplaceOptions& options, DecodeStep* next) : LinkedStep(next), options_(options) {}
  void Take(std::string_view token) override { next_->Take(options_.pattern.ReplaceAll(token, options_.content)); }

 private:
  const ReplaceOptions& options_;
};

// The byte that a token like "<0x0A>" represents, parsed as in the reference (Rust's from_str_radix takes "+A").
std::optional<char> ByteToken(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  int value = 0;
  for (size_t i = 3; i < 5; ++i) {
    const char c = token[i];
    int digit;
    if (c >= '0' && c <= '9') {
      digit = c - '0';
    } else if (c >= 'a' && c <= 'f') {
      digit = c - 'a' + 10;
    } else if (c >= 'A' && c <= 'F') {
      digit = c - 'A' + 10;
    } else if (c == '+' && i == 3) {
      digit = 0;
    } else {
      return std::nullopt;
    }
    value = value * 16 + digit;
  }
  return value;
}

struct ByteFallbackOptions {
  bool whole_run;  // one undecodable byte turns its whole run of byte tokens into U+FFFDs (tokenizers library)
};
class ByteFallbackStep final : public HoldingStep {
 public:
  ByteFallbackStep(const ByteFallbackOptions& options, DecodeStep* next)
      : HoldingStep(next), whole_run_(options.whole_run) {}
  void Take(std::string_view token) override {
    if (const std::optional<char> byte = ByteToken(token)) {
      pending_.push_back(*byte);
      if (!whole_run_) Release(DecidedPrefix(pending_));
      return;
    }
    Release(pending_.size());
    next_->Take(token);
  }

 private:
  void Emit(std::string_view bytes) override {
    if (IsValidUtf8(bytes)) return next_->Take(bytes);
    for (size_t pos = 0; pos < bytes.size();) {
      const Utf8Step step = NextUtf8(bytes, pos);
      const bool good = step.valid && !whole_run_;
      next_->Take(good ? bytes.substr(pos, step.n_bytes) : kReplacementUtf8);
      pos += good ? step.n_bytes : 1;
    }
  }

  bool whole_run_;
};

struct FuseOptions {};
class FuseStep final : public LinkedStep {
 public:
  FuseStep(const FuseOptions&, DecodeStep* next) : LinkedStep(next) {}
  void Take(std::string_view token) override { next_->Take(token); }
};

struct StripOptions {
  std::string character;
  size_t start;  // max number of characters removed at the start
  size_t stop;
  bool fused;  // Take receives parts of one token
};
class StripStep final : public LinkedStep {
 public:
  StripStep(const StripOptions& options, DecodeStep* next)
      : LinkedStep(next), options_(options), start_left_(options.start) {}

  void Take(std::string_view text) override {
    StripFront(&text);
    held_ += text;
    const size_t keep = held_.size() - TrailingBytes();
    if (keep > 0) next_->Take(std::string_view(held_).substr(0, keep));
    held_.erase(0, keep);
    if (!options_.fused) {
      held_.clear();
      start_left_ = options_.start;
    }
  }

 private:
  void StripFront(std::string_view* text) {
    const std::string_view character = options_.character;
    while (start_left_ > 0 && !text->empty()) {
      if (text->substr(0, character.size()) == character) {
        text->remove_prefix(character.size());
        --start_left_;
      } else {
        start_left_ = 0;
      }
    }
  }
  size_t TrailingBytes() const {
    const std::string& character = options_.character;
    size_t n = 0;
    for (size_t k = 0; k < options_.stop; ++k) {
      const size_t end = held_.size() - n;
      if (end < character.size() || held_.compare(end - character.size(), character.size(), character) != 0) break;
      n += character.size();
    }
    return n;
  }

  const StripOptions& options_;
  size_t start_left_;
  std::string held_;  // characters to remove if nothing follows them
};

using SpecPtr = std::unique_ptr<Decoder::Spec>;

bool IsOneCharacter(std::string_view text) { return !text.empty() && NextUtf8(text, 0).n_bytes == text.size(); }

// The facts about earlier steps that parsing a step needs.
struct ParseState {
  bool fused = false;  // tokens arrive as parts of one
  size_t growth = 1;   // max bytes out per byte in
};

Result<SpecPtr> ParseReplace(const Json& part, ParseState* state, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Parse(part, where));
  DUO_ASSIGN_OR_RETURN(std::string content, ParseReplacement(part, "content", where));
  DUO_RETURN_IF_ERROR(LimitGrowth(pattern, content, &state->growth, where));
  // After Fuse, a match could span two parts unless it is a single character.
  if (state->fused && (pattern.literal() == nullptr || !IsOneCharacter(*pattern.literal()))) {
    return Unsupported("{}: Replace of more than one character after Fuse or ByteLevel is not supported", where);
  }
  return SpecPtr(std::make_unique<SpecOf<ReplaceStep, ReplaceOptions>>(
      ReplaceOptions{.pattern = std::move(pattern), .content = std::move(content)}));
}

Result<SpecPtr> ParseStrip(const Json& part, bool fused, const std::string& where) {
  StripOptions options{};
  DUO_ASSIGN_OR_RETURN(options.character, JsonString(part, "content", where));
  DUO_ASSIGN_OR_RETURN(const int64_t start, JsonIntOr(part, "start", 0, where));
  DUO_ASSIGN_OR_RETURN(const int64_t stop, JsonIntOr(part, "stop", 0, where));
  if (!IsOneCharacter(options.character)) return Corrupt("{}: content: expected one character", where);
  if (start < 0 || stop < 0 || start > text_limits::kMaxStripCount || stop > text_limits::kMaxStripCount) {
    return Corrupt("{}: Strip of {} and {} characters, expected 0..{}", where, start, stop,
                   text_limits::kMaxStripCount);
  }
  options.start = start;
  options.stop = stop;
  options.fused = fused;
  return SpecPtr(std::make_unique<SpecOf<StripStep, StripOptions>>(std::move(options)));
}

Result<SpecPtr> ParseMetaspace(const Json& part, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(std::string replacement, JsonString(part, "replacement", where));
  DUO_ASSIGN_OR_RETURN(const std::string scheme, JsonStringOr(part, "prepend_scheme", "always", where));
  DUO_ASSIGN_OR_RETURN(const bool add_prefix_space, JsonBoolOr(part, "add_prefix_space", true, where));
  if (!IsOneCharacter(replacement)) {
    return Corrupt("{}: replacement: expected one character, found \"{}\"", where, replacement.substr(0, 20));
  }
  return SpecPtr(std::make_unique<SpecOf<MetaspaceStep, MetaspaceOptions>>(MetaspaceOptions{
      .replacement = std::move(replacement), .drop_in_first_token = scheme != "never" && add_prefix_space}));
}

Result<SpecPtr> ParsePart(const Json& part, ParseState* state, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const std::string type, JsonString(part, "type", where));
  if (type == "Replace") return ParseReplace(part, state, where);
  if (type == "Strip") return ParseStrip(part, state->fused, where);
  if (type == "Metaspace") return ParseMetaspace(part, where);
  if (type == "Fuse") {
    state->fused = true;
    return SpecPtr(std::make_unique<SpecOf<FuseStep, FuseOptions>>(FuseOptions{}));
  }
  if ((type == "ByteLevel" || type == "ByteFallback") && state->fused) {
    return Unsupported("{}: {} after Fuse or ByteLevel is not supported", where, type);
  }
  if (type == "ByteLevel") {
    state->fused = true;
    return SpecPtr(std::make_unique<SpecOf<ByteLevelStep, ByteLevelOptions>>(ByteLevelOptions{}));
  }
  if (type == "ByteFallback") {
    return SpecPtr(std::make_unique<SpecOf<ByteFallbackStep, ByteFallbackOptions>>(ByteFallbackOptions{true}));
  }
  return UnsupportedPart(where, "decoder", type, kKnown);
}

}  // namespace

Decoder::Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;
Decoder::~Decoder() = default;

Result<Decoder> Decoder::Parse(const Json* spec, const std::string& where) {
  Decoder decoder;
  if (spec == nullptr) {
    decoder.specs_.push_back(std::make_unique<SpecOf<JoinStep, JoinOptions>>(JoinOptions{}));
    return decoder;
  }
  DUO_ASSIGN_OR_RETURN(const auto parts, FlattenSequence(*spec, "decoders", where));
  ParseState state;
  for (const Json* part : parts) {
    DUO_ASSIGN_OR_RETURN(SpecPtr parsed, ParsePart(*part, &state, where));
    decoder.specs_.push_back(std::move(parsed));
  }
  return decoder;
}

Decoder Decoder::ForSentencePiece(bool strip_first_space) {
  Decoder decoder;
  decoder.specs_.push_back(std::make_unique<SpecOf<ReplaceStep, ReplaceOptions>>(
      ReplaceOptions{.pattern = Pattern::Literal(std::string(kMetaspace)), .content = " "}));
  decoder.specs_.push_back(std::make_unique<SpecOf<ByteFallbackStep, ByteFallbackOptions>>(ByteFallbackOptions{false}));
  if (strip_first_space) {
    decoder.specs_.push_back(std::make_unique<SpecOf<StripStep, StripOptions>>(
        StripOptions{.character = " ", .start = 1, .stop = 0, .fused = true}));
  }
  return decoder;
}

Decoder::Run::Run(const Decoder& decoder, std::string* out) {
  steps_.push_back(std::make_unique<AppendStep>(out));
  for (auto spec = decoder.specs_.rbegin(); spec != decoder.specs_.rend(); ++spec) {
    DecodeStep* next = steps_.back().get();
    steps_.push_back((*spec)->Start(next));
  }
}

}  // namespace duo
