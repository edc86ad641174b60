#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/error.h"
#include "text/limits.h"
#include "text/regex_translate.h"
#include "text/utf8.h"

namespace duo {
namespace {

constexpr uint32_t kMinMatchLimit = 10'000'000;  // PCRE2's own default
constexpr uint32_t kHeapLimitKib = 256 * 1024;
constexpr size_t kJitStackStart = size_t{1} << 20;
constexpr size_t kJitStackMax = size_t{64} << 20;
constexpr uint32_t kParenthesesNestLimit = 100;

struct FreeCode {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
struct FreeCompileContext {
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
};
struct FreeJitStack {
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};

// The state of one scan: the objects that PCRE2 writes to while it matches.
class Matcher {
 public:
  Matcher(const pcre2_code* code, std::string_view text)
      : code_(code),
        text_(text),
        data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    DUO_CHECK(data_ != nullptr && context_ != nullptr, "out of memory in PCRE2");
    // In a run of n spaces, `\s*[\r\n]+` backtracks about n steps, so the limit must grow with the text.
    const size_t wanted = std::min<size_t>(text.size(), UINT32_MAX / 8) * 8;
    pcre2_set_match_limit(context_.get(), std::max<uint32_t>(kMinMatchLimit, wanted));
    pcre2_set_heap_limit(context_.get(), kHeapLimitKib);
  }

  // Finds the first match at or after `start`. Returns false if none exists or a limit was hit.
  bool Find(size_t start, ByteRange* match) {
    int rc = Run(start, 0);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && stack_ == nullptr) {
      stack_.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr));
      if (stack_ != nullptr) pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
      rc = Run(start, 0);
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = Run(start, PCRE2_NO_JIT);
    if (rc < 0) return false;
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data_.get());
    *match = {offsets[0], offsets[1]};
    return true;
  }

 private:
  int Run(size_t start, uint32_t options) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), start,
                       PCRE2_NO_UTF_CHECK | options, data_.get(), context_.get());
  }

  const pcre2_code* code_;
  std::string_view text_;
  std::unique_ptr<pcre2_match_data, FreeMatchData> data_;
  std::unique_ptr<pcre2_match_context, FreeMatchContext> context_;
  std::unique_ptr<pcre2_jit_stack, FreeJitStack> stack_;  // set only if the default of 32 KiB was too small
};

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, FreeCode> code;
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::Compile(std::string_view pattern, const std::string& where) {
  if (pattern.size() > text_limits::kMaxRegexBytes) {
    return Unsupported("{}: regex of {} bytes, expected at most {}", where, pattern.size(),
                       text_limits::kMaxRegexBytes);
  }
  DUO_ASSIGN_OR_RETURN(const std::string translated, TranslateOniguruma(pattern, where));
  std::unique_ptr<pcre2_compile_context, FreeCompileContext> context(pcre2_compile_context_create(nullptr));
  DUO_CHECK(context != nullptr, "out of memory in PCRE2");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), kParenthesesNestLimit);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  auto code = std::make_unique<Code>();
  // Ruby's ^ and $ match at every line.
  code->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                 &error_offset, context.get()));
  if (code->code == nullptr) {
    std::array<PCRE2_UCHAR, 256> reason{};
    pcre2_get_error_message(error, reason.data(), reason.size());
    return Unsupported("{}: regex {}: {}", where, pattern.substr(0, 200), reinterpret_cast<const char*>(reason.data()));
  }
  // If JIT is not available, matching works without it.
  (void)pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::move(code));
}

void Regex::FindAll(std::string_view text, std::vector<ByteRange>* matches) const {
  if (text.empty()) return;
  Matcher matcher(code_->code.get(), text);
  size_t start = 0;
  size_t last_end = SIZE_MAX;
  ByteRange match{};
  while (start <= text.size() && matcher.Find(start, &match)) {
    if (match.begin == match.end && match.end == last_end) {
      start += start < text.size() ? NextUtf8(text, start).n_bytes : 1;
      continue;
    }
    matches->push_back(match);
    start = last_end = match.end;
  }
}

}  // namespace duo
