#include "text/pretokenize.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "text/json_part.h"
#include "text/pattern.h"
#include "text/utf8.h"

namespace duo {

class PreTokenizer::Stage {
 public:
  virtual ~Stage() = default;
  virtual void Run(std::string_view piece, bool at_start, PieceSink* next) const = 0;
};

namespace {

constexpr const char* kKnown = "Split, ByteLevel, Digits, Metaspace, Sequence";
// GPT-2's own pattern, which ByteLevel splits by if use_regex is set.
constexpr std::string_view kGpt2Regex = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

enum class Behavior : uint8_t { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct Span {
  ByteRange range;
  bool is_match;
};

// Divides the whole text into the matches and the gaps between them.
std::vector<Span> Tile(std::string_view text, const std::vector<ByteRange>& matches, bool invert) {
  std::vector<Span> spans;
  spans.reserve(matches.size() * 2 + 1);
  size_t end = 0;
  for (const ByteRange& match : matches) {
    if (end < match.begin) spans.push_back({{end, match.begin}, invert});
    spans.push_back({match, !invert});
    end = match.end;
  }
  if (end < text.size()) spans.push_back({{end, text.size()}, invert});
  return spans;
}

// The reference library's fold over spans, forwards: a match joins the piece before it unless that was a match too.
void MergeWithPrevious(std::vector<Span>* spans) {
  std::vector<Span> merged;
  bool previous_match = false;
  for (const Span& span : *spans) {
    if (span.is_match && !previous_match && !merged.empty()) {
      merged.back().range.end = span.range.end;
    } else {
      merged.push_back({span.range, false});
    }
    previous_match = span.is_match;
  }
  *spans = std::move(merged);
}

// The same fold backwards: a match joins the piece after it unless that was a match too.
void MergeWithNext(std::vector<Span>* spans) {
  std::vector<Span> merged;
  bool previous_match = false;
  for (auto span = spans->rbegin(); span != spans->rend(); ++span) {
    if (span->is_match && !previous_match && !merged.empty()) {
      merged.back().range.begin = span->range.begin;
    } else {
      merged.push_back({span->range, false});
    }
    previous_match = span->is_match;
  }
  std::reverse(merged.begin(), merged.end());
  *spans = std::move(merged);
}

void MergeEqual(std::vector<Span>* spans) {
  std::vector<Span> merged;
  for (const Span& span : *spans) {
    if (!merged.empty() && merged.back().is_match == span.is_match) {
      merged.back().range.end = span.range.end;
    } else {
      merged.push_back(span);
    }
  }
  *spans = std::move(merged);
}

void EmitSpans(std::string_view text, std::vector<Span> spans, Behavior behavior, bool at_start, PieceSink* next) {
  switch (behavior) {
    case Behavior::kIsolated: break;
    case Behavior::kRemoved: std::erase_if(spans, [](const Span& span) { return span.is_match; }); break;
    case Behavior::kContiguous: MergeEqual(&spans); break;
    case Behavior::kMergedWithPrevious: MergeWithPrevious(&spans); break;
    case Behavior::kMergedWithNext: MergeWithNext(&spans); break;
  }
  for (const Span& span : spans) {
    if (span.range.begin == span.range.end) continue;
    next->Piece(text.substr(span.range.begin, span.range.end - span.range.begin), at_start && span.range.begin == 0);
  }
}

class SplitStage final : public PreTokenizer::Stage {
 public:
  SplitStage(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void Run(std::string_view piece, bool at_start, PieceSink* next) const override {
    std::vector<ByteRange> matches;
    pattern_.FindAll(piece, &matches);
    EmitSpans(piece, Tile(piece, matches, invert_), behavior_, at_start, next);
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

class ByteLevelStage final : public PreTokenizer::Stage {
 public:
  ByteLevelStage(bool add_prefix_space, std::optional<Regex> regex)
      : add_prefix_space_(add_prefix_space), regex_(std::move(regex)) {}

  void Run(std::string_view piece, bool at_start, PieceSink* next) const override {
    std::string prefixed;
    if (add_prefix_space_ && piece[0] != ' ') {
      prefixed.append(1, ' ').append(piece);
      piece = prefixed;
    }
    if (!regex_.has_value()) return next->Piece(piece, at_start);
    std::vector<ByteRange> matches;
    regex_->FindAll(piece, &matches);
    EmitSpans(piece, Tile(piece, matches, false), Behavior::kIsolated, at_start, next);
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> regex_;
};

class DigitsStage final : public PreTokenizer::Stage {
 public:
  explicit DigitsStage(bool individual) : individual_(individual) {}

  void Run(std::string_view piece, bool at_start, PieceSink* next) const override {
    std::vector<ByteRange> digits;
    for (size_t pos = 0; pos < piece.size();) {
      const Utf8Step step = NextUtf8(piece, pos);
      if (IsNumeric(step.code_point)) digits.push_back({pos, pos + step.n_bytes});
      pos += step.n_bytes;
    }
    const Behavior behavior = individual_ ? Behavior::kIsolated : Behavior::kContiguous;
    EmitSpans(piece, Tile(piece, digits, false), behavior, at_start, next);
  }

 private:
  bool individual_;
};

class MetaspaceStage final : public PreTokenizer::Stage {
 public:
  enum class Prepend : uint8_t { kAlways, kFirst, kNever };
  MetaspaceStage(std::string replacement, Prepend prepend, bool split)
      : mark_(Pattern::Literal(replacement)), replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}

  void Run(std::string_view piece, bool at_start, PieceSink* next) const override {
    std::string text = space_.ReplaceAll(piece, replacement_);
    const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && at_start);
    if (wanted && text.compare(0, replacement_.size(), replacement_) != 0) text.insert(0, replacement_);
    if (!split_) return next->Piece(text, at_start);
    std::vector<ByteRange> marks;
    mark_.FindAll(text, &marks);
    EmitSpans(text, Tile(text, marks, false), Behavior::kMergedWithNext, at_start, next);
  }

 private:
  Pattern space_ = Pattern::Literal(" ");
  Pattern mark_;
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

using StagePtr = std::unique_ptr<PreTokenizer::Stage>;

Result<StagePtr> ParseSplit(const Json& part, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Parse(part, where));
  DUO_ASSIGN_OR_RETURN(const std::string name, JsonString(part, "behavior", where));
  DUO_ASSIGN_OR_RETURN(const bool invert, JsonBoolOr(part, "invert", false, where));
  Behavior behavior;
  if (name == "Removed") {
    behavior = Behavior::kRemoved;
  } else if (name == "Isolated") {
    behavior = Behavior::kIsolated;
  } else if (name == "MergedWithPrevious") {
    behavior = Behavior::kMergedWithPrevious;
  } else if (name == "MergedWithNext") {
    behavior = Behavior::kMergedWithNext;
  } else if (name == "Contiguous") {
    behavior = Behavior::kContiguous;
  } else {
    return UnsupportedPart(where, "Split behavior", name,
                           "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
  }
  return StagePtr(std::make_unique<SplitStage>(std::move(pattern), behavior, invert));
}

Result<StagePtr> ParseByteLevel(const Json& part, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const bool prefix, JsonBoolOr(part, "add_prefix_space", true, where));
  DUO_ASSIGN_OR_RETURN(const bool use_regex, JsonBoolOr(part, "use_regex", true, where));
  std::optional<Regex> regex;
  if (use_regex) {
    DUO_ASSIGN_OR_RETURN(regex, Regex::Compile(kGpt2Regex, where));
  }
  return StagePtr(std::make_unique<ByteLevelStage>(prefix, std::move(regex)));
}

Result<StagePtr> ParseMetaspace(const Json& part, const std::string& where) {
  using Prepend = MetaspaceStage::Prepend;
  DUO_ASSIGN_OR_RETURN(std::string replacement, JsonString(part, "replacement", where));
  if (replacement.empty() || NextUtf8(replacement, 0).n_bytes != replacement.size()) {
    return Corrupt("{}: replacement: expected one character, found \"{}\"", where, replacement.substr(0, 20));
  }
  DUO_ASSIGN_OR_RETURN(const std::string scheme, JsonStringOr(part, "prepend_scheme", "always", where));
  DUO_ASSIGN_OR_RETURN(const bool split, JsonBoolOr(part, "split", true, where));
  // Files older than prepend_scheme use add_prefix_space. If it is false, it overrides the scheme, as in the reference.
  DUO_ASSIGN_OR_RETURN(const bool add_prefix_space, JsonBoolOr(part, "add_prefix_space", true, where));
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return UnsupportedPart(where, "Metaspace prepend_scheme", scheme, "always, first, never");
  }
  Prepend prepend = scheme == "always" ? Prepend::kAlways : scheme == "first" ? Prepend::kFirst : Prepend::kNever;
  if (!add_prefix_space) prepend = Prepend::kNever;
  return StagePtr(std::make_unique<MetaspaceStage>(std::move(replacement), prepend, split));
}

Result<StagePtr> ParseStage(const Json& part, const std::string& type, const std::string& where) {
  if (type == "Split") return ParseSplit(part, where);
  if (type == "ByteLevel") return ParseByteLevel(part, where);
  if (type == "Metaspace") return ParseMetaspace(part, where);
  if (type == "Digits") {
    DUO_ASSIGN_OR_RETURN(const bool individual, JsonBoolOr(part, "individual_digits", false, where));
    return StagePtr(std::make_unique<DigitsStage>(individual));
  }
  return UnsupportedPart(where, "pre-tokeniser", type, kKnown);
}

// Runs each piece through the stages from `index` on, and passes the results to `last`.
class StageRunner final : public PieceSink {
 public:
  StageRunner(const std::vector<StagePtr>& stages, size_t index, PieceSink* last)
      : stages_(stages), index_(index), last_(last) {}

  void Piece(std::string_view piece, bool at_start) override {
    if (index_ == stages_.size()) return last_->Piece(piece, at_start);
    StageRunner next(stages_, index_ + 1, last_);
    stages_[index_]->Run(piece, at_start, &next);
  }

 private:
  const std::vector<StagePtr>& stages_;
  size_t index_;
  PieceSink* last_;
};

}  // namespace

PreTokenizer::PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

Result<PreTokenizer> PreTokenizer::Parse(const Json* spec, const std::string& where) {
  PreTokenizer pre;
  if (spec == nullptr) return pre;
  DUO_ASSIGN_OR_RETURN(const auto parts, FlattenSequence(*spec, "pretokenizers", where));
  for (const Json* part : parts) {
    DUO_ASSIGN_OR_RETURN(const std::string type, JsonString(*part, "type", where));
    if (pre.byte_level_) {
      return Unsupported("{}: {} after ByteLevel; duo expects ByteLevel to be the last step", where,
                         type.substr(0, 60));
    }
    DUO_ASSIGN_OR_RETURN(StagePtr stage, ParseStage(*part, type, where));
    pre.stages_.push_back(std::move(stage));
    pre.byte_level_ = type == "ByteLevel";
  }
  return pre;
}

void PreTokenizer::Run(std::string_view text, bool at_start, PieceSink* sink) const {
  if (!text.empty()) StageRunner(stages_, 0, sink).Piece(text, at_start);
}

}  // namespace duo
