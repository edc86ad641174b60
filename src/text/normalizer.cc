#include "text/normalizer.h"

#include <utf8proc.h>

#include "text/json_part.h"
#include "text/pattern.h"
#include "text/unicode_normal_form.h"
#include "text/utf8.h"

namespace duo {

class Normalizer::Step {
 public:
  virtual ~Step() = default;
  virtual void Apply(std::string* text) const = 0;
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
  void Apply(std::string* text) const override { *text = LowercaseText(*text); }
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

 private:
  Pattern pattern_;
  std::string content_;
};

class StripStep final : public Normalizer::Step {
 public:
  StripStep(bool left, bool right) : left_(left), right_(right) {}
  void Apply(std::string* text) const override {
    std::string_view stripped = *text;
    if (left_) stripped = TrimStartIf(stripped, IsWhiteSpace);
    if (right_) stripped = TrimEndIf(stripped, IsWhiteSpace);
    *text = std::string(stripped);
  }

 private:
  bool left_;
  bool right_;
};

Result<std::unique_ptr<Normalizer::Step>> ParseStep(const Json& part, size_t* growth, const std::string& where) {
  using StepPtr = std::unique_ptr<Normalizer::Step>;
  DUO_ASSIGN_OR_RETURN(const std::string type, JsonString(part, "type", where));
  if (type == "NFC") return StepPtr(std::make_unique<FormStep>(NormalForm::kNfc));
  if (type == "NFD") return StepPtr(std::make_unique<FormStep>(NormalForm::kNfd));
  if (type == "NFKC") return StepPtr(std::make_unique<FormStep>(NormalForm::kNfkc));
  if (type == "NFKD") return StepPtr(std::make_unique<FormStep>(NormalForm::kNfkd));
  if (type == "Lowercase") return StepPtr(std::make_unique<LowercaseStep>());
  if (type == "Prepend") {
    DUO_ASSIGN_OR_RETURN(std::string prefix, ParseReplacement(part, "prepend", where));
    return StepPtr(std::make_unique<PrependStep>(std::move(prefix)));
  }
  if (type == "Replace") {
    DUO_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Parse(part, where));
    DUO_ASSIGN_OR_RETURN(std::string content, ParseReplacement(part, "content", where));
    DUO_RETURN_IF_ERROR(LimitGrowth(pattern, content, growth, where));
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
    DUO_ASSIGN_OR_RETURN(auto step, ParseStep(*part, &growth, where));
    normalizer.steps_.push_back(std::move(step));
  }
  return normalizer;
}

void Normalizer::Apply(std::string* text) const {
  for (const auto& step : steps_) step->Apply(text);
}

std::string LowercaseText(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    pos += step.n_bytes;
    if (step.code_point == 0x130) {
      out += "i\xCC\x87";  // the only lower-case mapping to two code points (SpecialCasing.txt)
    } else {
      AppendUtf8(utf8proc_tolower(step.code_point), &out);
    }
  }
  return out;
}

}  // namespace duo
