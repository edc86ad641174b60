#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "duo/head_report.h"
#include "heads/gnuplot.h"

namespace duo {
namespace {

constexpr size_t kMaxLogBytes = size_t{1} << 30;
constexpr size_t kMaxPoints = 1000;  // per curve; more could not be seen

struct LoggedStep {
  int64_t step = 0;
  double distill = 0;
  std::vector<double> gates;
};

Result<std::vector<LoggedStep>> ReadLog(const std::string& path) {
  DUO_ASSIGN_OR_RETURN(const std::string log, ReadFile(path, kMaxLogBytes));
  std::vector<LoggedStep> steps;
  DUO_RETURN_IF_ERROR(ForEachJsonLine(log, path, [&](const Json& line, const std::string& where) -> Status {
    LoggedStep step;
    DUO_ASSIGN_OR_RETURN(step.step, JsonInt(line, "step", where));
    DUO_ASSIGN_OR_RETURN(step.distill, JsonNumber(line, "distill_loss", where));
    const auto gates = line.find("gates");
    if (gates == line.end() || !gates->is_array()) {
      return Corrupt("{}: gates: expected numbers", where);
    }
    for (const Json& gate : *gates) {
      if (!gate.is_number()) return Corrupt("{}: gates: expected numbers", where);
      step.gates.push_back(gate.get<double>());
    }
    if (step.gates.empty() || (!steps.empty() && step.gates.size() != steps[0].gates.size())) {
      return Corrupt("{}: gates: found {}, expected at least one and as many as in the first step", where,
                     step.gates.size());
    }
    steps.push_back(std::move(step));
    return OkStatus();
  }));
  if (steps.size() < 2) return Corrupt("{}: has fewer than two steps", path);
  return steps;
}

// Columns: step, distillation loss, mean gate, every gate.
std::string Data(const std::vector<LoggedStep>& steps) {
  const size_t stride = (steps.size() + kMaxPoints - 1) / kMaxPoints;
  std::string text = "$log << EOD\n";
  for (size_t i = 0; i < steps.size(); i += stride) {
    double mean = 0;
    for (const double gate : steps[i].gates) mean += gate / steps[i].gates.size();
    text += fmt::format("{} {:.6g} {:.5f}", steps[i].step, std::max(steps[i].distill, 1e-9), mean);
    for (const double gate : steps[i].gates) text += fmt::format(" {:.4f}", gate);
    text += "\n";
  }
  return text + "EOD\n";
}

}  // namespace

Status WriteLossCurves(const std::string& log_path, const std::string& path, const std::string& title) {
  DUO_ASSIGN_OR_RETURN(const std::vector<LoggedStep> steps, ReadLog(log_path));
  std::string script = Data(steps);
  script += fmt::format("set multiplot layout 2,1 title {}\n", GnuplotString(title));
  script +=
      "set lmargin 12\nset tics out nomirror\nset grid lc rgb '#e2e8f0'\nset key outside top right horizontal\n"
      "set logscale y\nset format y '%.0e'\nset ylabel 'distillation loss'\n"
      // In the first steps every gate is 1, so there is no loss at all.
      "plot $log using 1:($2 > 1e-8 ? $2 : NaN) with lines lw 1.5 lc rgb '#2563eb' notitle\n"
      "unset logscale y\nset format y '%.1f'\nset yrange [0:1.02]\nset xlabel 'step'\nset ylabel 'gates'\n";
  script += fmt::format(
      "plot for [i=4:{}] $log using 1:i with lines lw 1 lc rgb '#94a3b8' title (i == 4 ? 'a head' : ''), "
      "$log using 1:3 with lines lw 2.5 lc rgb '#f97316' title 'mean'\nunset multiplot\n",
      3 + steps[0].gates.size());
  return WriteImage(path, 900, 700, script);
}

}  // namespace duo
