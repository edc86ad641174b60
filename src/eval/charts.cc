#include "eval/charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "heads/gnuplot.h"

namespace duo {
namespace {

// Line styles and point types differ too, so the lines are distinct without colour.
constexpr const char* kFullColor = "#2563eb";
constexpr const char* kDuoColor = "#f97316";
constexpr const char* kCommon = "set tics out nomirror\nset grid lc rgb '#94a3b8' lw 0.5\n";

Result<std::vector<double>> Numbers(const Json& object, const char* key, const std::string& where) {
  const auto array = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || array == object.end() || !array->is_array()) {
    return Corrupt("{}: {}: expected a list of numbers", where, key);
  }
  std::vector<double> out;
  for (const Json& x : *array) {
    if (!x.is_number()) return Corrupt("{}: {}: expected a list of numbers", where, key);
    out.push_back(x.get<double>());
  }
  return out;
}

/// "512", "2k", "128k".
std::string ShortCount(double n) {
  if (n >= 1024 && std::fmod(n, 1024) == 0) return fmt::format("{:g}k", n / 1024);
  return n >= 1000 && std::fmod(n, 1000) == 0 ? fmt::format("{:g}k", n / 1000) : fmt::format("{:g}", n);
}

// gnuplot treats labels as formats for their positions, so each % is doubled.
std::string Tics(const char* axis, const std::vector<std::string>& labels) {
  std::string text = fmt::format("set {} (", axis);
  for (size_t i = 0; i < labels.size(); ++i) {
    std::string label;
    for (const char c : labels[i]) label += c == '%' ? "%%" : std::string(1, c);
    text += fmt::format("{}{} {}", i == 0 ? "" : ", ", GnuplotString(label), i);
  }
  return text + ")\n";
}

Result<Chart> NeedleChart(const Json& result, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const std::vector<double> lengths, Numbers(result, "lengths", where));
  DUO_ASSIGN_OR_RETURN(const std::vector<double> depths, Numbers(result, "depths", where));
  DUO_ASSIGN_OR_RETURN(const Json* modes, JsonMember(result, "modes", where));
  if (!modes->is_object() || modes->empty()) return Corrupt("{}: modes: expected an object", where);
  std::vector<std::string> columns, rows;
  for (const double n : lengths) columns.push_back(ShortCount(n));
  for (const double depth : depths) rows.push_back(fmt::format("{:.0f} %", 100 * depth));
  std::string data, plots;
  size_t number = 0;
  for (const std::string& name : ModeNames(*modes)) {
    const Json& mode = modes->at(name);
    DUO_ASSIGN_OR_RETURN(const Json* table, JsonMember(mode, "table", where + ": modes"));
    if (!table->is_array() || table->size() != depths.size()) {
      return Corrupt("{}: table: expected a row per depth", where);
    }
    data += fmt::format("$m{} << EOD\n", number);
    for (size_t y = 0; y < depths.size(); ++y) {
      const Json& row = (*table)[y];
      if (!row.is_array() || row.size() != lengths.size()) {
        return Corrupt("{}: table: expected a number per length", where);
      }
      for (size_t x = 0; x < lengths.size(); ++x) {
        if (!row[x].is_number()) return Corrupt("{}: table: expected numbers", where);
        data += fmt::format("{} {} {:.4f}\n", x, y, row[x].get<double>());
      }
    }
    data += "EOD\n";
    DUO_ASSIGN_OR_RETURN(const double mean, JsonNumber(mode, "mean", where + ": modes"));
    plots += fmt::format(
        "set title {}\nplot $m{} using 1:2:3 with image pixels notitle, "
        "$m{} using 1:2:(sprintf('%.2f', $3)):($3 > 0.5 ? 0xffffff : 0x0f172a) with labels tc rgb variable notitle\n",
        GnuplotString(fmt::format("{} attention, mean {:.3f}", name, mean)), number, number);
    ++number;
  }
  const auto n_modes = static_cast<int>(modes->size());
  Chart chart;
  chart.width = std::clamp(n_modes * (static_cast<int>(lengths.size()) * 56 + 150), 480, 2400);
  chart.height = std::clamp(static_cast<int>(depths.size()) * 34 + 130, 260, 1600);
  chart.script = data +
                 fmt::format(
                     "set tics out nomirror\nset palette defined (0 '#f1f5f9', 0.5 '#60a5fa', 1 '#1e3a8a')\n"
                     "set cbrange [0:1]\nunset colorbox\nset xrange [-0.5:{}]\nset yrange [{}:-0.5]\n"
                     "set xlabel 'length, tokens'\nset ylabel 'depth of the needle'\n",
                     static_cast<double>(lengths.size()) - 0.5, static_cast<double>(depths.size()) - 0.5) +
                 Tics("xtics", columns) + Tics("ytics", rows) + fmt::format("set multiplot layout 1,{}\n", n_modes) +
                 plots + "unset multiplot\n";
  return chart;
}

Result<Chart> PerplexityChart(const Json& result, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const Json* buckets, JsonMember(result, "buckets", where));
  if (!buckets->is_array() || buckets->empty()) {
    return InvalidArgument("{}: full attention alone has no divergence to draw", where);
  }
  std::string data = "$d << EOD\n";
  for (const Json& bucket : *buckets) {
    DUO_ASSIGN_OR_RETURN(const double begin, JsonNumber(bucket, "begin", where + ": buckets"));
    DUO_ASSIGN_OR_RETURN(const double end, JsonNumber(bucket, "end", where + ": buckets"));
    DUO_ASSIGN_OR_RETURN(const double kld, JsonNumber(bucket, "kld", where + ": buckets"));
    DUO_ASSIGN_OR_RETURN(const double top1, JsonNumber(bucket, "top1", where + ": buckets"));
    data += fmt::format("{:g} {:.8g} {:.6g}\n", (std::max(begin, 1.0) + end) / 2, kld, 100 * top1);
  }
  Chart chart{720, 420, data + "EOD\n" + kCommon};
  chart.script += fmt::format(
      "set logscale x 2\nset xlabel 'position, tokens'\nset ylabel 'KL divergence from full attention, nats'\n"
      "set yrange [0:*]\nset y2label 'same most likely token, %'\nset y2tics\nset y2range [*:100]\n"
      "set key outside top center horizontal\n"
      "plot $d using 1:2 with linespoints lw 2 pt 7 lc rgb '{}' title 'KL divergence', "
      "$d using 1:3 axes x1y2 with linespoints lw 2 dt 2 pt 5 lc rgb '{}' title 'agreement'\n",
      kDuoColor, kFullColor);
  return chart;
}

Result<Chart> CertifyChart(const Json& result, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const Json* rows, JsonMember(result, "rows", where));
  if (!rows->is_array() || rows->empty()) return Corrupt("{}: rows: expected a list", where);
  std::string data = "$d << EOD\n";
  for (const Json& row : *rows) {
    DUO_ASSIGN_OR_RETURN(const double sparsity, JsonNumber(row, "sparsity", where + ": rows"));
    DUO_ASSIGN_OR_RETURN(const double kld, JsonNumber(row, "kld", where + ": rows"));
    DUO_ASSIGN_OR_RETURN(const double niah, JsonNumber(row, "niah", where + ": rows"));
    DUO_ASSIGN_OR_RETURN(const double kv, JsonNumber(row, "kv_bytes", where + ": rows"));
    data += fmt::format("{:.4g} {:.8g} {:.6g} {:.6g}\n", 100 * sparsity, kld, 100 * niah, kv);
  }
  DUO_ASSIGN_OR_RETURN(const double full_kv, JsonNumber(result, "full_kv_bytes", where));
  Chart chart{720, 460, data + "EOD\n" + kCommon};
  chart.script += fmt::format(
      "set xlabel 'share of streaming heads, %'\nset ylabel 'needles found, KV memory, %'\nset yrange [0:105]\n"
      "set y2label 'KL divergence, nats'\nset y2tics\nset y2range [0:*]\nset xrange [-3:103]\n"
      "set key outside top center horizontal\n"
      "plot $d using 1:3 with linespoints lw 2 pt 7 lc rgb '{}' title 'needles', "
      "$d using 1:(100 * $4 / {:.6g}) with linespoints lw 2 dt 3 pt 9 lc rgb '#16a34a' title 'KV memory', "
      "$d using 1:2 axes x1y2 with linespoints lw 2 dt 2 pt 5 lc rgb '{}' title 'KL divergence'\n",
      kFullColor, std::max(full_kv, 1.0), kDuoColor);
  return chart;
}

Result<Chart> TaskChart(const Json& result, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const Json* tasks, JsonMember(result, "tasks", where));
  if (!tasks->is_object() || tasks->empty()) return Corrupt("{}: tasks: expected an object", where);
  std::vector<std::string> labels;
  if (!tasks->front().is_object()) return Corrupt("{}: tasks: expected objects", where);
  std::vector<std::string> modes = ModeNames(tasks->front());
  std::erase(modes, "n");
  std::string data = "$d << EOD\n";
  for (const auto& [name, task] : tasks->items()) {
    data += fmt::format("{}", labels.size());
    for (const std::string& mode : modes) {
      DUO_ASSIGN_OR_RETURN(const double score, JsonNumber(task, mode.c_str(), where + ": tasks"));
      data += fmt::format(" {:.6g}", score);
    }
    data += "\n";
    labels.push_back(name);
  }
  Chart chart{std::clamp(static_cast<int>(labels.size()) * 90 + 160, 480, 2000), 420, data + "EOD\n" + kCommon};
  chart.script += "set ylabel 'score'\nset yrange [0:100]\nset boxwidth 0.35\nset style fill solid 0.8\n" +
                  fmt::format("set xrange [-0.6:{}]\n", static_cast<double>(labels.size()) - 0.4) +
                  Tics("xtics rotate by -25", labels) + "set key outside top center horizontal\nplot ";
  for (size_t m = 0; m < modes.size(); ++m) {
    const double shift = (static_cast<double>(m) - (static_cast<double>(modes.size()) - 1) / 2) * 0.38;
    chart.script += fmt::format("{}$d using ($1 + {:.3f}):{} with boxes lc rgb '{}' title {}", m == 0 ? "" : ", ",
                                shift, m + 2, modes[m] == "full" ? kFullColor : kDuoColor, GnuplotString(modes[m]));
  }
  chart.script += "\n";
  return chart;
}

}  // namespace

std::vector<std::string> ModeNames(const Json& modes) {
  std::vector<std::string> names;
  for (const auto& [name, mode] : modes.items()) names.push_back(name);
  std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return name == "full"; });
  return names;
}

Result<Chart> ChartOf(const Json& result, const std::string& where) {
  DUO_ASSIGN_OR_RETURN(const std::string kind, JsonString(result, "eval", where));
  if (kind == "niah") return NeedleChart(result, where);
  if (kind == "perplexity") return PerplexityChart(result, where);
  if (kind == "certify") return CertifyChart(result, where);
  if (kind == "ruler" || kind == "longbench") return TaskChart(result, where);
  return InvalidArgument("{}: eval: \"{}\" is not a kind of result that has a picture", where, kind);
}

Status WriteChart(const Json& result, const std::string& path) {
  DUO_ASSIGN_OR_RETURN(const Chart chart, ChartOf(result, path));
  return WriteImage(path, chart.width, chart.height, chart.script);
}

}  // namespace duo
