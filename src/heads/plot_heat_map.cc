#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "duo/head_report.h"
#include "heads/gnuplot.h"

namespace duo {
namespace {

std::string Gates(const HeadPattern& pattern) {
  std::string text = "$gates << EOD\n";
  for (int layer = 0; layer < pattern.n_layers; ++layer) {
    for (int head = 0; head < pattern.n_kv_heads; ++head) {
      text += fmt::format("{:.6f} ", std::clamp(pattern.gate(layer, head), 0.0, 1.0));
    }
    text += "\n";
  }
  return text + "EOD\n";
}

std::string Chosen(const HeadChoice& choice) {
  std::string text = "$chosen << EOD\n";
  for (int layer = 0; layer < choice.n_layers; ++layer) {
    for (int head = 0; head < choice.n_kv_heads; ++head) {
      if (choice.is_retrieval(layer, head)) text += fmt::format("{} {}\n", head, layer);
    }
  }
  return text + "EOD\n";
}

// `title` is the only text from outside.
std::string Script(const HeadPattern& pattern, const HeadChoice* choice, const std::string& title) {
  const bool marks = choice != nullptr && choice->n_retrieval() > 0;
  std::string script = fmt::format(
      "set title {}\n"
      "set xlabel 'kv head'\nset ylabel 'layer'\nset cblabel 'gate'\n"
      "set xrange [-0.5:{}.5]\nset yrange [{}.5:-0.5]\nset cbrange [0:1]\n"
      "set tics out nomirror\n"
      "set palette defined (0 '#f1f5f9', 0.5 '#60a5fa', 1 '#1e3a8a')\n",
      GnuplotString(title), pattern.n_kv_heads - 1, pattern.n_layers - 1);
  script += Gates(pattern);
  if (marks) script += Chosen(*choice);
  // "pixels" draws one rectangle per head. Viewers would blur an image.
  script += "plot $gates matrix with image pixels notitle";
  if (marks) script += ", $chosen using 1:2 with points pt 7 ps 0.5 lc rgb '#f97316' title 'retrieval head'";
  if (marks) script = "set key outside bottom center\n" + script;
  return script;
}

}  // namespace

Status WriteHeatMap(const HeadPattern& pattern, const HeadChoice* choice, const std::string& path,
                    const std::string& title) {
  DUO_CHECK(choice == nullptr || (choice->n_layers == pattern.n_layers && choice->n_kv_heads == pattern.n_kv_heads),
            "the choice must have the pattern's shape");
  const int width = std::clamp(pattern.n_kv_heads * 20 + 240, 480, 4000);
  const int height = std::clamp(pattern.n_layers * 20 + 160, 320, 4000);
  return WriteImage(path, width, height, Script(pattern, choice, title));
}

}  // namespace duo
