#include "cli/bench_table.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>

#include "base/memory_info.h"
#include "cli/terminal.h"

namespace duo::cli {
namespace {

/// The value of the first "key : value" line of /proc/cpuinfo; empty when no line has the key.
std::string CpuInfo(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, key.size(), key) != 0) continue;
    return colon + 2 <= line.size() ? line.substr(colon + 2) : "";
  }
  return "";
}

/// The CPU features that the kernels' speed depends on, as far as this CPU has them.
std::vector<std::string> CpuFlags() {
  static constexpr std::array<std::string_view, 12> kWanted = {"avx2",     "fma",      "f16c",        "avx512f",
                                                               "avx512bw", "avx512vl", "avx512_bf16", "avx512_vnni",
                                                               "avx_vnni", "amx_tile", "amx_bf16",    "amx_int8"};
  std::vector<std::string> found;
  std::istringstream flags(CpuInfo("flags"));
  for (std::string flag; flags >> flag;) {
    if (std::find(kWanted.begin(), kWanted.end(), flag) != kWanted.end()) found.push_back(flag);
  }
  return found;
}

/// "cpu, avx512_bf16, 2 threads" -> "avx512_bf16".
std::string IsaOf(const std::string& backend) {
  const size_t begin = backend.find(", ");
  if (begin == std::string::npos) return "";
  return backend.substr(begin + 2, backend.find(',', begin + 2) - begin - 2);
}

Json MachineJson(const BenchReport& report) {
  utsname system = {};
  uname(&system);
  return {{"cpu", CpuInfo("model name")},
          {"threads", report.threads},
          {"isa", IsaOf(report.backend)},
          {"flags", CpuFlags()},
          {"available_memory_bytes", AvailableMemoryBytes()},
          {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)},
          {"compiler", __VERSION__}};
}

Json RowJson(const BenchRow& row) {
  return {{"test", row.test},
          {"mode", row.mode},
          {"depth", row.depth},
          {"tokens", row.tokens},
          {"weights", row.weights},
          {"kv_type", row.kv_type},
          {"sparsity", row.sparsity},
          {"ms_per_token", row.ms_per_token},
          {"ms_per_token_median", row.ms_per_token},
          {"ms_per_token_p90", row.ms_per_token_p90},
          {"tokens_per_s", 1e3 / row.ms_per_token},
          {"attention_ms", row.attention_ms},
          {"attention_gb_s", row.attention_gb_s},
          {"attention_gflop_s", row.attention_gflop_s},
          {"linear_ms", row.linear_ms},
          {"linear_gb_s", row.linear_gb_s},
          {"gemm_gflop_s", row.gemm_gflop_s},
          {"kv_bytes", row.kv_bytes},
          {"bytes_per_token", row.bytes_per_token},
          {"read_gb_s", row.read_gb_s},
          {"floor_ms", row.floor_ms},
          {"fill", row.fill}};
}

std::string LayersNote(const BenchReport& report) {
  if (report.model.n_layers == report.n_layers_of_model) return fmt::format("{} layers", report.n_layers_of_model);
  return fmt::format("{} of {} layers run", report.model.n_layers, report.n_layers_of_model);
}

/// The row of the same test and depth with full attention, or null.
const BenchRow* FullOf(const BenchReport& report, const BenchRow& row) {
  for (const BenchRow& other : report.rows) {
    if (other.mode == "full" && other.test == row.test && other.depth == row.depth) return &other;
  }
  return nullptr;
}

std::string Share(double value, double ceiling, const char* unit) {
  return fmt::format("{:.1f} {} ({:.0f} %)", value, unit, ceiling > 0 ? 100 * value / ceiling : 0);
}

using Cells = std::vector<std::string>;

Cells MarkdownCells(const BenchReport& report, const BenchRow& row) {
  const bool decode = row.test == "decode";
  const BenchRow* full = FullOf(report, row);
  const double gemm = report.gemm_ceiling();
  const bool types_differ = std::any_of(report.rows.begin(), report.rows.end(),
                                        [&](const BenchRow& other) { return other.kv_type != row.kv_type; });
  return {row.test,
          types_differ ? row.mode + " " + row.kv_type : row.mode,
          FormatCount(row.depth),
          fmt::format("{:.3f}", row.ms_per_token),
          fmt::format("{:.3f}", row.ms_per_token_p90),
          fmt::format("{:.1f}", 1e3 / row.ms_per_token),
          full == nullptr ? "" : fmt::format("{:.2f}x", full->ms_per_token / row.ms_per_token),
          fmt::format("{:.3f}", row.attention_ms),
          decode ? Share(row.attention_gb_s, row.read_gb_s, "GB/s") : Share(row.attention_gflop_s, gemm, "GFLOP/s"),
          decode ? Share(row.linear_gb_s, row.read_gb_s, "GB/s") : Share(row.gemm_gflop_s, gemm, "GFLOP/s"),
          FormatBytes(row.kv_bytes),
          fmt::format("{:.3f}", row.floor_ms)};
}

/// Pads the columns, so that people can read the Markdown source too.
std::string PadTable(const std::vector<Cells>& lines) {
  std::vector<size_t> widths(lines[0].size(), 0);
  for (const Cells& cells : lines) {
    for (size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], cells[i].size());
  }
  std::string out;
  for (size_t n = 0; n < lines.size(); ++n) {
    for (size_t i = 0; i < widths.size(); ++i) {
      out +=
          i < 2 ? fmt::format("| {:<{}} ", lines[n][i], widths[i]) : fmt::format("| {:>{}} ", lines[n][i], widths[i]);
    }
    out += "|\n";
    if (n > 0) continue;
    for (size_t i = 0; i < widths.size(); ++i)
      out += i < 2 ? "|:" + std::string(widths[i] + 1, '-') : "|" + std::string(widths[i] + 1, '-') + ":";
    out += "|\n";
  }
  return out;
}

}  // namespace

Json BenchJson(const BenchReport& report) {
  const ModelConfig& c = report.model;
  Json rows = Json::array();
  for (const BenchRow& row : report.rows) rows.push_back(RowJson(row));
  Json ceilings = {{"read_gb_s", report.read_gb_s},
                   {"gemm_bf16_gflop_s", report.gemm_bf16_gflop_s},
                   {"gemm_int8_gop_s", report.gemm_int8_gop_s ? Json(*report.gemm_int8_gop_s) : Json()}};
  if (report.gemm_f32_gflop_s) ceilings["gemm_f32_gflop_s"] = *report.gemm_f32_gflop_s;
  return {{"model",
           {{"name", c.name},
            {"n_layers", c.n_layers},
            {"n_layers_of_model", report.n_layers_of_model},
            {"layers", LayersNote(report)},
            {"n_heads", c.n_heads},
            {"n_kv_heads", c.n_kv_heads},
            {"head_dim", c.head_dim},
            {"n_parameters", c.n_parameters()},
            {"weights_bytes", report.weights_bytes},
            {"random_weights", report.random_weights}}},
          {"threads", report.threads},
          {"machine", MachineJson(report)},
          {"heads", {{"choice", report.heads}, {"sink", report.sink}, {"recent", report.recent}}},
          {"chunk", report.chunk},
          {"interleaved", report.interleaved},
          {"ceilings", std::move(ceilings)},
          {"peak_rss_bytes", report.peak_rss_bytes},
          {"base_rss_bytes", report.base_rss_bytes},
          {"device_bytes", report.on_device ? Json(report.device_bytes) : Json(nullptr)},
          {"plan_bytes", report.plan_bytes},
          {"rows", std::move(rows)}};
}

std::string BenchCsv(const BenchReport& report) {
  static constexpr std::array<const char*, 21> kKeys = {"test",
                                                        "mode",
                                                        "depth",
                                                        "tokens",
                                                        "weights",
                                                        "kv_type",
                                                        "sparsity",
                                                        "ms_per_token",
                                                        "ms_per_token_p90",
                                                        "tokens_per_s",
                                                        "attention_ms",
                                                        "attention_gb_s",
                                                        "attention_gflop_s",
                                                        "linear_ms",
                                                        "linear_gb_s",
                                                        "gemm_gflop_s",
                                                        "kv_bytes",
                                                        "bytes_per_token",
                                                        "read_gb_s",
                                                        "floor_ms",
                                                        "fill"};
  std::string out = fmt::format("{}\n", fmt::join(kKeys, ","));
  for (const BenchRow& row : report.rows) {
    const Json json = RowJson(row);
    std::vector<std::string> cells;
    for (const char* key : kKeys)
      cells.push_back(json[key].is_string() ? json[key].get<std::string>() : json[key].dump());
    out += fmt::format("{}\n", fmt::join(cells, ","));
  }
  return out;
}

std::string BenchMarkdown(const BenchReport& report) {
  std::string out = fmt::format("{}: {}, {}, weights {}{}\n", report.model.name, LayersNote(report), report.backend,
                                FormatBytes(report.weights_bytes), report.random_weights ? " (random)" : "");
  out += fmt::format("duo: {}; sink {}, recent {}\n", report.heads, report.sink, report.recent);
  out += fmt::format(
      "measured ceilings: read {:.1f} GB/s (median of all rows; shares and floors use the bandwidth measured for each "
      "row), products {:.0f} GFLOP/s\n\n",
      report.read_gb_s, report.gemm_ceiling());
  std::vector<Cells> lines = {{"test", "mode", "depth", "ms/token", "p90", "tokens/s", "speed-up", "attention ms",
                               "attention", "products", "KV", "floor ms"}};
  for (const BenchRow& row : report.rows) lines.push_back(MarkdownCells(report, row));
  out += PadTable(lines) + "\n";
  const bool synthetic = std::any_of(report.rows.begin(), report.rows.end(),
                                     [](const BenchRow& row) { return row.depth > 0 && row.fill == "synthetic"; });
  if (synthetic) out += "The cache was filled with synthetic K and V.\n";
  out += fmt::format("Times are medians; modes {}. Decode steps add tokens to the cache while they are measured.\n",
                     report.interleaved ? "took turns" : "ran one after the other");
  if (report.on_device) {
    out += fmt::format("Device memory taken {}, planned {}.\n", FormatBytes(report.device_bytes),
                       FormatBytes(report.plan_bytes));
  } else {
    out += fmt::format("Peak RSS {}, of which {} before the model; planned {}.\n", FormatBytes(report.peak_rss_bytes),
                       FormatBytes(report.base_rss_bytes), FormatBytes(report.plan_bytes));
  }
  return out;
}

}  // namespace duo::cli
