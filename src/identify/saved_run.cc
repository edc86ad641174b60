#include "identify/saved_run.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"

namespace duo {
namespace {

// Reads a list of n finite numbers in [min, max].
Result<std::vector<double>> Numbers(const Json& json, const char* key, size_t n, double min, double max,
                                    const std::string& where) {
  const auto bad = [&](const std::string& what) { return Corrupt("{}: {}: {}", where, key, what); };
  const auto array = json.find(key);
  if (array == json.end() || !array->is_array()) return bad("expected a list of numbers");
  if (array->size() != n) return bad(fmt::format("{} numbers, expected {}", array->size(), n));
  std::vector<double> numbers;
  numbers.reserve(n);
  for (const Json& x : *array) {
    // The file may have been edited by hand, and one NaN would spread to every gate.
    const double value = x.is_number() ? x.get<double>() : NAN;
    if (!(std::isfinite(value) && value >= min && value <= max)) return bad("number " + JsonText(x) + " out of range");
    numbers.push_back(value);
  }
  return numbers;
}

}  // namespace

Json SavedRunJson(const SavedRun& run) {
  const GateState& s = run.state;
  // JSON has the shortest text of a double that is read back bit for bit, so a resumed run equals an unbroken one.
  return {{"step", s.step},   {"reg_weight", s.reg_weight}, {"gates", s.gates},
          {"first", s.first}, {"second", s.second},         {"log_bytes", run.log_bytes}};
}

Result<SavedRun> SavedRunOf(const Json& json, size_t n_gates, int64_t n_steps, const std::string& where) {
  if (!json.is_object()) return Corrupt("{}: expected an object", where);
  SavedRun run;
  GateState& s = run.state;
  DUO_ASSIGN_OR_RETURN(s.step, JsonInt(json, "step", where));
  DUO_ASSIGN_OR_RETURN(s.gates, Numbers(json, "gates", n_gates, 0, 1, where));
  DUO_ASSIGN_OR_RETURN(s.first, Numbers(json, "first", n_gates, -INFINITY, INFINITY, where));
  // Second moments are means of squares.
  DUO_ASSIGN_OR_RETURN(s.second, Numbers(json, "second", n_gates, 0, INFINITY, where));
  DUO_ASSIGN_OR_RETURN(s.reg_weight, JsonNumber(json, "reg_weight", where));
  DUO_ASSIGN_OR_RETURN(run.log_bytes, JsonInt(json, "log_bytes", where));
  if (s.step < 0 || s.step > n_steps) {
    return Corrupt("{}: step: {}, expected 0..{}", where, s.step, n_steps);
  }
  if (!(std::isfinite(s.reg_weight) && s.reg_weight >= 0) || run.log_bytes < 0) {
    return Corrupt("{}: reg_weight and log_bytes: expected numbers of at least 0", where);
  }
  return run;
}

}  // namespace duo
