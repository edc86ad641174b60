#include "text/unicode_normal_form.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "text/utf8.h"

namespace duo {
namespace {

int CombiningClass(utf8proc_int32_t code_point) { return utf8proc_get_property(code_point)->combining_class; }

// utf8proc_decompose orders marks by swapping neighbours, which is quadratic in a run of marks. A stable sort is not.
void OrderMarks(std::vector<utf8proc_int32_t>* code_points) {
  auto it = code_points->begin();
  while (it != code_points->end()) {
    if (CombiningClass(*it) == 0) {
      ++it;
      continue;
    }
    const auto run_end = std::find_if(it, code_points->end(), [](auto c) { return CombiningClass(c) == 0; });
    std::stable_sort(it, run_end, [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    it = run_end;
  }
}

// Below U+0300 nothing composes with the character before it, so NFC changes nothing.
bool IsCertainlyNfc(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0xCC; });
}

}  // namespace

std::string ToNormalForm(std::string_view text, NormalForm form) {
  if (form == NormalForm::kNfc && IsCertainlyNfc(text)) return std::string(text);
  const bool compatibility = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const auto decompose =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatibility ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(text.size());
  std::array<utf8proc_int32_t, 32> parts;  // the longest decomposition, that of U+FDFA, has 18
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Step step = NextUtf8(text, pos);
    pos += step.n_bytes;
    int boundary = 0;
    const utf8proc_ssize_t n =
        utf8proc_decompose_char(step.code_point, parts.data(), parts.size(), decompose, &boundary);
    code_points.insert(code_points.end(), parts.begin(), parts.begin() + std::clamp<utf8proc_ssize_t>(n, 0, 32));
  }
  OrderMarks(&code_points);
  size_t n = code_points.size();
  if (form == NormalForm::kNfc || form == NormalForm::kNfkc) {
    const auto compose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    n = utf8proc_normalize_utf32(code_points.data(), n, compose);
  }
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < n; ++i) AppendUtf8(code_points[i], &out);
  return out;
}

}  // namespace duo
