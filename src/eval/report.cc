#include "eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/memory_info.h"
#include "eval/certificate.h"
#include "eval/charts.h"
#include "heads/gnuplot.h"

namespace duo {
namespace {

// Text and lines in pictures follow the colours of the page: gnuplot writes them as "black".
constexpr const char* kStyle =
    ":root{--ink:#0f172a;--dim:#475569;--paper:#ffffff;--card:#f8fafc;--line:#cbd5e1;--mark:#dbeafe}\n"
    "@media (prefers-color-scheme:dark){:root{--ink:#e2e8f0;--dim:#94a3b8;--paper:#0b1120;--card:#111a2e;"
    "--line:#334155;--mark:#1e3a8a}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;max-width:60rem;padding:1rem;font:16px/1.5 system-ui,sans-serif;color:var(--ink);"
    "background:var(--paper)}\n"
    "section{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:1rem;margin:1.5rem 0}\n"
    "h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.2rem;margin:0 0 .5rem}\n"
    "p,dl{margin:.5rem 0;color:var(--dim)}dt{float:left;clear:left;margin-right:.5rem}dt::after{content:':'}"
    "dd{margin:0;color:var(--ink);overflow-wrap:anywhere}\n"
    ".wide{overflow-x:auto;margin:.75rem 0}\n"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
    "th,td{border-bottom:1px solid var(--line);padding:.25rem .6rem;text-align:right;white-space:nowrap}\n"
    "th:first-child,td:first-child{text-align:left}tr.chosen{background:var(--mark);font-weight:600}\n"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid var(--line);border-radius:.25rem;padding:.5rem;"
    "font-size:.85rem}\n"
    "svg{max-width:100%;height:auto;min-width:34rem}\n"
    "svg [fill=black]{fill:var(--ink)}svg [stroke=black]{stroke:var(--ink)}svg [color=black]{color:var(--ink)}\n";

std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

/// Rows of cells; the first row is the head.
class Table {
 public:
  void Add(const std::vector<std::string>& cells, bool chosen = false) {
    const char* tag = html_.empty() ? "th" : "td";
    html_ += chosen ? "<tr class=\"chosen\">" : "<tr>";
    for (const std::string& cell : cells) html_ += fmt::format("<{}>{}</{}>", tag, Escape(cell), tag);
    html_ += "</tr>\n";
  }
  std::string Html() const { return "<div class=\"wide\"><table>\n" + html_ + "</table></div>\n"; }

 private:
  std::string html_;
};

/// Numbers become "12.5", texts stay as they are, null becomes "", and other values become JSON.
std::string Shown(const Json& value) {
  if (value.is_number_float()) return fmt::format("{:.4g}", value.get<double>());
  if (value.is_string()) return value.get<std::string>();
  return value.is_null() ? "" : JsonText(value);
}

Result<std::string> NeedleSection(const Json& r, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const Json* modes, JsonMember(r, "modes", where));
  DUO_ASSIGN_OR_RETURN(const Json* lengths, JsonMember(r, "lengths", where));
  DUO_ASSIGN_OR_RETURN(const Json* depths, JsonMember(r, "depths", where));
  if (!modes->is_object() || !lengths->is_array() || !depths->is_array()) {
    return Corrupt("{}: modes, lengths, depths: expected an object and two lists", where);
  }
  std::string html;
  for (const std::string& name : ModeNames(*modes)) {
    const Json& mode = modes->at(name);
    DUO_ASSIGN_OR_RETURN(const double mean, JsonNumber(mode, "mean", where));
    DUO_ASSIGN_OR_RETURN(const Json* scores, JsonMember(mode, "table", where));
    if (!scores->is_array()) return Corrupt("{}: table: expected a list of rows", where);
    html += fmt::format("<p>{}: mean score {:.3f}</p>\n", Escape(name == "full" ? "full attention" : name), mean);
    Table table;
    std::vector<std::string> head = {"depth \\ length"};
    for (const Json& length : *lengths) head.push_back(Shown(length));
    table.Add(head);
    for (size_t y = 0; y < depths->size() && y < scores->size(); ++y) {
      std::vector<std::string> cells = {Shown((*depths)[y])};
      for (const Json& score : (*scores)[y]) cells.push_back(Shown(score));
      table.Add(cells);
    }
    html += table.Html();
  }
  return html;
}

Result<std::string> PerplexitySection(const Json& r, const std::string& where) {
  Table table;
  table.Add({"", "perplexity", "KL divergence", "same most likely token"});
  for (const char* name : {"full", "duo"}) {
    if (!r.contains(name) || !r.at(name).is_object()) continue;
    const Json& mode = r.at(name);
    DUO_ASSIGN_OR_RETURN(const double perplexity, JsonNumber(mode, "perplexity", where));
    DUO_ASSIGN_OR_RETURN(const double kld, JsonNumberOr(mode, "kld", 0, where));
    DUO_ASSIGN_OR_RETURN(const double kld_error, JsonNumberOr(mode, "kld_error", 0, where));
    DUO_ASSIGN_OR_RETURN(const double top1, JsonNumberOr(mode, "top1", 1, where));
    table.Add({name, fmt::format("{:.4f}", perplexity), fmt::format("{:.3g} ± {:.1g}", kld, kld_error),
               fmt::format("{:.2f} %", 100 * top1)});
  }
  return table.Html();
}

Result<std::string> CertifySection(const Json& r, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const Json* rows, JsonMember(r, "rows", where));
  DUO_ASSIGN_OR_RETURN(const double full_kv, JsonNumber(r, "full_kv_bytes", where));
  DUO_ASSIGN_OR_RETURN(const double full_niah, JsonNumber(r, "full_niah", where));
  DUO_ASSIGN_OR_RETURN(const double full_ms, JsonNumber(r, "full_decode_ms", where));
  double chosen = -1;
  if (r.contains("chosen")) {
    DUO_ASSIGN_OR_RETURN(const CertifyRow row, CertifyRowOf(r.at("chosen"), where + ": chosen"));
    chosen = row.sparsity;
  }
  if (!rows->is_array()) return Corrupt("{}: rows: expected a list", where);
  Table table;
  table.Add({"sparsity", "heads", "KL divergence", "top-1", "needles", "KV", "ms/token"});
  table.Add({"full", "", "0", "100 %", fmt::format("{:.3f}", full_niah),
             FormatBytes(static_cast<uint64_t>(std::clamp(full_kv, 0.0, 0x1p62))), fmt::format("{:.3g}", full_ms)});
  for (const Json& json : *rows) {
    DUO_ASSIGN_OR_RETURN(const CertifyRow row, CertifyRowOf(json, where + ": rows"));
    table.Add({fmt::format("{:g}", row.sparsity), std::to_string(row.n_retrieval),
               fmt::format("{:.2g} ± {:.1g}", row.kld, row.kld_error), fmt::format("{:.2f} %", 100 * row.top1),
               fmt::format("{:.3f}", row.niah),
               fmt::format("{} ({:.0f} %)", FormatBytes(row.kv_bytes),
                           full_kv > 0 ? 100 * static_cast<double>(row.kv_bytes) / full_kv : 0),
               fmt::format("{:.3g}", row.decode_ms)},
              row.sparsity == chosen);
  }
  return table.Html() + (chosen >= 0 ? fmt::format("<p>Chosen: sparsity {:g}.</p>\n", chosen) : "");
}

/// A table with one row per object; the columns are their members.
Result<std::string> ObjectsSection(const Json& rows, const std::vector<std::string>& names,
                                   const std::vector<std::string>& columns, const std::string& where) {
  Table table;
  std::vector<std::string> head = {""};
  head.insert(head.end(), columns.begin(), columns.end());
  table.Add(head);
  for (size_t i = 0; i < names.size(); ++i) {
    const Json& row = rows.is_array() ? rows[i] : rows.at(names[i]);
    if (!row.is_object()) return Corrupt("{}: expected objects", where);
    std::vector<std::string> cells = {names[i]};
    for (const std::string& column : columns) cells.push_back(row.contains(column) ? Shown(row.at(column)) : "");
    table.Add(cells);
  }
  return table.Html();
}

Result<std::string> TaskSection(const Json& r, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const Json* tasks, JsonMember(r, "tasks", where));
  if (!tasks->is_object()) return Corrupt("{}: tasks: expected an object", where);
  std::vector<std::string> names;
  for (const auto& [name, task] : tasks->items()) names.push_back(name);
  DUO_ASSIGN_OR_RETURN(std::string html, ObjectsSection(*tasks, names, {"n", "full", "duo"}, where + ": tasks"));
  if (r.contains("note")) html += "<p>" + Escape(Shown(r.at("note"))) + "</p>\n";
  return html;
}

Result<std::string> BenchSection(const Json& r, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const Json* rows, JsonMember(r, "rows", where));
  if (!rows->is_array()) return Corrupt("{}: rows: expected a list", where);
  std::vector<std::string> names(rows->size());
  for (size_t i = 0; i < names.size(); ++i) names[i] = std::to_string(i + 1);
  return ObjectsSection(
      *rows, names,
      {"test", "mode", "depth", "ms_per_token", "tokens_per_s", "attention_gb_s", "gemm_gflop_s", "kv_bytes"},
      where + ": rows");
}

std::string KindOf(const Json& result) {
  if (!result.is_object()) return "";
  if (result.contains("ceilings") && result.contains("rows")) return "bench";
  const auto kind = result.find("eval");
  return kind != result.end() && kind->is_string() ? kind->get<std::string>() : "";
}

const char* TitleOf(const std::string& kind) {
  if (kind == "niah") return "Needle in a haystack";
  if (kind == "perplexity") return "Perplexity and divergence from full attention";
  if (kind == "certify") return "What each sparsity costs and saves";
  if (kind == "ruler") return "RULER";
  if (kind == "longbench") return "LongBench";
  if (kind == "bench") return "Speed";
  return nullptr;
}

Result<std::string> BodyOf(const std::string& kind, const Json& result, const std::string& path) {
  if (kind == "niah") return NeedleSection(result, path);
  if (kind == "perplexity") return PerplexitySection(result, path);
  if (kind == "certify") return CertifySection(result, path);
  return kind == "bench" ? BenchSection(result, path) : TaskSection(result, path);
}

/// The picture as an <svg> element, or a sentence; empty for a kind without pictures.
Result<std::string> PictureOf(const Json& result, const std::string& path) {
  const Result<Chart> chart = ChartOf(result, path);
  if (!chart.ok() && chart.status().code() == StatusCode::kInvalidArgument) return std::string();
  if (!chart.ok()) return chart.status();
  const Result<std::string> svg = RunGnuplot(
      fmt::format("set terminal svg size {},{} noenhanced\nset encoding utf8\n", chart->width, chart->height) +
      chart->script + "\nunset output\n");
  if (!svg.ok()) return "<p>No picture: " + Escape(svg.status().message()) + "</p>\n";
  const size_t begin = svg->find("<svg");  // after the XML declaration
  if (begin == std::string::npos) return std::string();
  return "<div class=\"wide\">" + svg->substr(begin) + "</div>\n";
}

std::string FactsOf(const Json& result) {
  std::string html = "<dl>\n";
  const auto fact = [&](const char* name, const Json& value) {
    const std::string text = Shown(value);
    if (!text.empty()) html += fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, Escape(text));
  };
  constexpr std::pair<const char*, const char*> kFacts[] = {
      {"model", "model"},        {"backend", "machine"}, {"text_source", "text"},
      {"compute", "arithmetic"}, {"kv_type", "K and V"}, {"weights", "weights"},
      {"threads", "threads"},    {"seed", "seed"},       {"duo_version", "duo"}};
  for (const auto& [key, name] : kFacts) {
    const auto it = result.find(key);
    if (it == result.end()) continue;
    fact(name, it->is_object() && it->contains("name") ? it->at("name") : *it);
  }
  if (const auto heads = result.find("heads"); heads != result.end() && heads->is_object()) {
    constexpr std::pair<const char*, const char*> kHeads[] = {{"n_retrieval", "retrieval"},
                                                              {"n_streaming", "streaming"},
                                                              {"sink", "sink tokens"},
                                                              {"recent", "recent tokens"}};
    std::string text;
    for (const auto& [key, name] : kHeads) {
      if (heads->contains(key)) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", Shown(heads->at(key)), name);
    }
    fact("heads", text);
  }
  return html + "</dl>\n";
}

}  // namespace

bool IsReportable(const Json& result) { return TitleOf(KindOf(result)) != nullptr; }

Result<std::string> MakeReport(const std::vector<ReportInput>& inputs, const std::string& title) {
  std::string html =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>" +
      Escape(title) + "</title>\n<style>\n" + kStyle + "</style>\n</head>\n<body>\n<h1>" + Escape(title) + "</h1>\n";
  for (const ReportInput& input : inputs) {
    const std::string kind = KindOf(input.result);
    const char* heading = TitleOf(kind);
    if (heading == nullptr) {
      return InvalidArgument("{}: is not a result of duo eval or duo bench", input.path);
    }
    DUO_ASSIGN_OR_RETURN(const std::string body, BodyOf(kind, input.result, input.path));
    DUO_ASSIGN_OR_RETURN(const std::string picture,
                         kind == "bench" ? std::string() : PictureOf(input.result, input.path));
    html += fmt::format("<section>\n<h2>{}</h2>\n", heading) + FactsOf(input.result) + picture + body;
    if (const auto command = input.result.find("command"); command != input.result.end()) {
      html += "<pre>" + Escape(Shown(*command)) + "</pre>\n";
    }
    html += "</section>\n";
  }
  return html + "</body>\n</html>\n";
}

}  // namespace duo
