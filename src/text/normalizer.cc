#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "text/json_part.h"
#include "text/limits.h"
#include "text/pattern.h"
#include "text/unicode_normal_form.h"
#include "text/utf8.h"

namespace duo {

class Normalizer::Step {
 public:
  virtual ~Step() = default;
  virtual void Apply(std::string* text) const = 0;
  /// At most this many bytes come out per byte that goes in.
  virtual size_t growth() const { return 1; }
};

namespace {

constexpr const char* kKnown = "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, Sequence";

class FormStep final : public Normalizer::Step {
 public:
  explicit FormStep(NormalForm form) : form_(form) {}
  void Apply(std::string* text) const override { *text = ToNormalForm(*text, form_); }

 private:
  NormalForm form_;
};

class LowercaseStep final : public Normalizer::Step {
 public:
  void Apply(std::string* text) const override {
    std::string out;
    out.reserve(text->size());
    for (size_t pos = 0; pos < text->size();) {
      const Utf8Step step = NextUtf8(*text, pos);
      pos += step.n_bytes;
      if (step.code_point == 0x130) {
        out += "i\xCC\x87";  // the only lower-case mapping to two code points (SpecialCasing.txt)
      } else {
        AppendUtf8(static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(step.code_point))), &out);
      }
    }
    *text = std::move(out);
  }
};

class PrependStep final : public Normalizer::Step {
 public:
  explicit PrependStep(std::string prefix) : prefix_(std::move(prefix)) {}
  void Apply(std::string* text) const override {
    if (!text->empty()) text->insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class ReplaceStep final : public Normalizer::Step {
 public:
  ReplaceStep(Pattern pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void Apply(std::string* text) const override { *text = pattern_.ReplaceAll(*text, content_); }
  // A regex may match between any two bytes.
  size_t growth() const override {
    const std::string* literal = pattern_.literal();
    if (literal == nullptr) return 1 + content_.size();
    return 1 + content_.size() / std::max<size_t>(1, literal->size());
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class StripStep final : public Normalizer::Step {
 public:
  StripStep(bool left, bool right) : left_(left), right_(right) {}
  void Apply(std::string* text) const override {
    size_t begin = text->size();
    size_t end = 0;
    for (size_t pos = 0; pos < text->size();) {
      const Utf8Step step = NextUtf8(*text, pos);
      if (!IsWhiteSpace(step.code_point)) {
        if (begin > pos) begin = pos;
        end = pos + step.n_bytes;
      }
      pos += step.n_bytes;
    }
    if (!left_) begin = 0;
    if (!right_) end = text->size();
    *text = begin < end ? text->substr(begin, end - begin) : std::string();
  }

 private:
  bool left_;
  bool right_;
};

Result<std::string> ShortString(const Json& part, const char* key, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(std::string text, JsonString(part, key, where));
  if (text.size() <= text_limits::kMaxReplacementBytes) return text;
  return Status(StatusCode::kUnsupported, where + ": " + key + ": " + std::to_string(text.size()) +
                                              " bytes, expected at most " +
                                              std::to_string(text_limits::kMaxReplacementBytes));
}

Result<std::unique_ptr<Normalizer::Step>> ParseStep(const Json& part, const std::string& where) {
  using StepPtr = std::unique_ptr<Normalizer::Step>;
  DUO_ASSIGN_OR_RETURN(const std::string type, JsonString(part, "type", where));
  if (type == "NFC") return StepPtr(std::make_unique<FormStep>(NormalForm::kNfc));
  if (type == "NFD") return StepPtr(std::make_unique<FormStep>(NormalForm::kNfd));
  if (type == "NFKC") return StepPtr(std::make_unique<FormStep>(NormalForm::kNfkc));
  if (type == "NFKD") return StepPtr(std::make_unique<FormStep>(NormalForm::kNfkd));
  if (type == "Lowercase") return StepPtr(std::make_unique<LowercaseStep>());
  if (type == "Prepend") {
    DUO_ASSIGN_OR_RETURN(std::string prefix, ShortString(part, "prepend", where));
    return StepPtr(std::make_unique<PrependStep>(std::move(prefix)));
  }
  if (type == "Replace") {
    DUO_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Parse(part, where));
    DUO_ASSIGN_OR_RETURN(std::string content, ShortString(part, "content", where));
    return StepPtr(std::make_unique<ReplaceStep>(std::move(pattern), std::move(content)));
  }
  if (type == "Strip") {
    DUO_ASSIGN_OR_RETURN(const bool left, JsonBoolOr(part, "strip_left", false, where));
    DUO_ASSIGN_OR_RETURN(const bool right, JsonBoolOr(part, "strip_right", false, where));
    return StepPtr(std::make_unique<StripStep>(left, right));
  }
  return UnsupportedPart(where, "normalizer", type, kKnown);
}

}  // namespace

Normalizer::Normalizer() = default;
Normalizer::Normalizer(Normalizer&&) noexcept = default;
Normalizer& Normalizer::operator=(Normalizer&&) noexcept = default;
Normalizer::~Normalizer() = default;

Result<Normalizer> Normalizer::Parse(const Json* spec, const std::string& where) {
  Normalizer normalizer;
  if (spec == nullptr) return normalizer;
  DUO_ASSIGN_OR_RETURN(const auto parts, FlattenSequence(*spec, "normalizers", where));
  size_t growth = 1;
  for (const Json* part : parts) {
    DUO_ASSIGN_OR_RETURN(auto step, ParseStep(*part, where));
    growth *= step->growth();
    if (growth > text_limits::kMaxNormalizerGrowth) {
      return Status(StatusCode::kUnsupported, where + ": Replace steps that make a text more than " +
                                                  std::to_string(text_limits::kMaxNormalizerGrowth) +
                                                  " times as long");
    }
    normalizer.steps_.push_back(std::move(step));
  }
  return normalizer;
}

void Normalizer::Apply(std::string* text) const {
  for (const auto& step : steps_) step->Apply(text);
}

}  // namespace duo
