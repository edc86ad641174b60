#include "duo/quantize.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/parallel.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/hf_config.h"
#include "checkpoint/safetensors.h"
#include "kernels/cpu/kernel_table.h"
#include "model/quantize_matrix.h"

namespace duo {
namespace {

constexpr size_t kMaxFileBytes = size_t{512} << 20;  // for tokenizer.json, config.json and similar files
// Smoothing factors are 2^-30 .. 2^30, so that no norm leaves the range of floats.
constexpr double kMaxPower = 30;
constexpr const char* kCompanions[] = {"generation_config.json", "tokenizer.json",      "tokenizer.model",
                                       "tokenizer_config.json",  "chat_template.jinja", "special_tokens_map.json"};

bool EndsWith(std::string_view text, std::string_view end) { return text.ends_with(end); }

/// The type that a tensor is converted to. kNative for every tensor that is not a matrix of the model.
WeightType TypeOf(const std::string& name, WeightType type) {
  if (name == "model.embed_tokens.weight" || name == "lm_head.weight") return HeadWeightType(type);
  if (!name.starts_with("model.layers.")) return WeightType::kNative;
  for (const char* matrix :
       {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
        "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}) {
    if (EndsWith(name, matrix)) return type;
  }
  return WeightType::kNative;
}

/// Compares a quantised matrix with its original. Calls row_of from several threads. Decodes with the portable kernels,
/// so that a report is the same on every machine. Faster ones would save little: the sums below take longer than
/// decoding.
MatrixReport Compare(const std::string& name, const QuantizedMatrix& q, const MatrixRows& row_of, int n_threads) {
  const DenseKernels& kernels = DenseKernelsFor(Isa::kPortable);
  const MatrixView view = q.view();
  double error = 0, energy = 0, most = 0;
  std::mutex mutex;
  ParallelBlocks(n_threads, q.n_out, 64, [&](int64_t begin, int64_t end) {
    std::vector<float> plain(q.n_in), coded(plain.size());
    double block_error = 0, block_energy = 0, block_most = 0;
    for (int64_t row = begin; row < end; ++row) {
      row_of(row, plain.data());
      float scale = 1;
      if (q.type == WeightType::kInt8) {
        scale = view.scale[row];
        kernels.widen(static_cast<const int8_t*>(view.data) + row * q.n_in, DType::kI8, coded.data(), q.n_in);
      } else {
        const auto* block = static_cast<const uint8_t*>(view.data) + row / kInt4Rows * Int4BlockBytes(q.n_in);
        kernels.unpack4(block, row % kInt4Rows, 0, q.n_in, coded.data());
      }
      for (size_t i = 0; i < plain.size(); ++i) {
        const double w = static_cast<double>(plain[i]), off = w - static_cast<double>(scale * coded[i]);
        block_error += off * off;
        block_energy += w * w;
        block_most = std::max(block_most, std::fabs(w));
      }
    }
    const std::lock_guard lock(mutex);
    error += block_error, energy += block_energy, most = std::max(most, block_most);
  });
  const double rms = std::sqrt(energy / static_cast<double>(q.n_out * q.n_in));
  return {name, q.type, energy > 0 ? std::sqrt(error / energy) : 0, rms > 0 ? most / rms : 0};
}

/// Makes the tensors of the quantised checkpoint.
class Maker {
 public:
  Maker(const Checkpoint& file, WeightType type, int n_threads, const ProgressCallback& progress)
      : file_(file), type_(type), n_threads_(n_threads), progress_(progress) {}

  /// Computes the smoothing factors. Must be called before Tensors.
  Status Smooth(const HfConfig& config, const Smoothing& smoothing, QuantizeReport* report) {
    const size_t group = config.group(), head_dim = config.head_dim;
    const auto n_layers = std::ssize(smoothing.layers);
    if (n_layers != 0 && n_layers != config.n_layers) {
      return OtherShape(fmt::format("smoothing of {} layers", n_layers));
    }
    for (size_t layer = 0; layer < smoothing.layers.size(); ++layer) {
      const std::string prefix = fmt::format("model.layers.{}.", layer);
      const std::string attn = prefix + "self_attn.", mlp = prefix + "mlp.";
      const Smoothing::Layer& inputs = smoothing.layers[layer];
      Smoothing::Layer s;
      DUO_ASSIGN_OR_RETURN(s.attention,
                           Factors(inputs.attention, smoothing.alpha,
                                   {attn + "q_proj.weight", attn + "k_proj.weight", attn + "v_proj.weight"}));
      divisors_[prefix + "input_layernorm.weight"] = s.attention;
      DUO_ASSIGN_OR_RETURN(s.mlp,
                           Factors(inputs.mlp, smoothing.alpha, {mlp + "gate_proj.weight", mlp + "up_proj.weight"}));
      divisors_[prefix + "post_attention_layernorm.weight"] = s.mlp;
      DUO_ASSIGN_OR_RETURN(s.down, Factors(inputs.down, smoothing.alpha, {mlp + "down_proj.weight"}));
      divisors_[mlp + "up_proj.weight"] = divisors_[mlp + "up_proj.bias"] = s.down;
      DUO_ASSIGN_OR_RETURN(s.output, Factors(inputs.output, smoothing.alpha, {attn + "o_proj.weight"}));
      if (s.output.size() != group * head_dim * config.n_kv_heads) return OtherShape(attn + "o_proj");
      std::vector<float> of_v(s.output.size() / group);
      for (size_t i = 0; i < of_v.size(); ++i) {
        const size_t first = i / head_dim * group * head_dim + i % head_dim;
        float& largest = of_v[i];
        for (size_t h = 0; h < group; ++h) largest = std::max(largest, s.output[first + h * head_dim]);
        for (size_t h = 0; h < group; ++h) s.output[first + h * head_dim] = largest;
      }
      divisors_[attn + "v_proj.weight"] = divisors_[attn + "v_proj.bias"] = of_v;
      for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight"}) factors_[attn + name] = s.attention;
      for (const char* name : {"gate_proj.weight", "up_proj.weight"}) factors_[mlp + name] = s.mlp;
      factors_[attn + "o_proj.weight"] = s.output;
      factors_[mlp + "down_proj.weight"] = s.down;
      report->factors.push_back(std::move(s));
      const bool go_on = !progress_ || progress_({.stage = "smooth",
                                                  .done = static_cast<int64_t>(layer) + 1,
                                                  .total = n_layers,
                                                  .unit = "layers",
                                                  .seconds = SecondsSince(begin_)});
      if (!go_on) return Cancelled();
    }
    return OkStatus();
  }

  /// Returns the new tensors. Their data is computed when they are written.
  Result<std::vector<safetensors::Tensor>> Tensors(QuantizeReport* report) {
    report_ = report;
    std::vector<safetensors::Tensor> tensors;
    for (const std::string& name : file_.names()) {
      DUO_ASSIGN_OR_RETURN(const TensorView view, file_.Get(name));
      report->bytes_before += view.bytes();
      const WeightType type = TypeOf(name, type_);
      if (type == WeightType::kNative) {
        const bool smoothed = divisors_.contains(name);
        if (smoothed && (view.rank != 1 || !HasDivisors(name, view.shape[0]) || DTypeBytes(view.dtype) < 2)) {
          return OtherShape(name);
        }
        tensors.push_back(smoothed ? Divided(name, view) : safetensors::Tensor::From(name, view));
        report->bytes_after += smoothed ? view.shape[0] * sizeof(float) : view.bytes();
        continue;
      }
      ++n_matrices_;
      const MatrixView plain = {.data = view.data, .dtype = view.dtype, .n_out = view.shape[0], .n_in = view.shape[1]};
      if (view.rank != 2 || !HasDivisors(name, plain.n_out)) return OtherShape(name);
      const bool int8 = type == WeightType::kInt8;
      safetensors::Tensor codes = {
          name, int8 ? safetensors::Type::kI8 : safetensors::Type::kU8, {plain.n_out, plain.n_in}, nullptr, {}};
      if (!int8) codes.shape = {DivideUp(plain.n_out, kInt4Rows), static_cast<int64_t>(Int4BlockBytes(plain.n_in))};
      codes.make = [this, name, plain, type]() -> Result<Buffer> {
        DUO_ASSIGN_OR_RETURN(QuantizedMatrix made, Make(name, plain, type));
        scales_[name] = std::move(made.scales);
        return std::move(made.codes);
      };
      report->bytes_after += codes.shape[0] * codes.shape[1];
      tensors.push_back(std::move(codes));
      if (!int8) continue;
      safetensors::Tensor scales = {name + kScaleSuffix, safetensors::Type::kF32, {plain.n_out}, nullptr, {}};
      scales.make = [this, name, plain, type]() -> Result<Buffer> {
        // The writer may write the scales before the codes (matrices of odd sizes). Such matrices are quantised twice.
        if (scales_[name].bytes() == 0) {
          DUO_ASSIGN_OR_RETURN(QuantizedMatrix made,
                               QuantizeMatrix(plain.n_out, plain.n_in, Rows(name, plain), type, n_threads_));
          return std::move(made.scales);
        }
        return std::move(scales_[name]);
      };
      report->bytes_after += plain.n_out * sizeof(float);
      tensors.push_back(std::move(scales));
    }
    return tensors;
  }

 private:
  Status OtherShape(const std::string& what) const {
    return InvalidArgument("{}: {}: the shape is not the one in config.json", file_.dir(), what);
  }
  /// Whether `name` has either n divisors or none.
  bool HasDivisors(const std::string& name, int64_t n) const {
    const auto found = divisors_.find(name);
    return found == divisors_.end() || std::ssize(found->second) == n;
  }

  /// The smoothing factors of a group of matrices with the same input. All are powers of two.
  Result<std::vector<float>> Factors(const std::vector<float>& inputs, double alpha,
                                     const std::vector<std::string>& matrices) const {
    std::vector<float> weights(inputs.size(), 0.0f);
    std::mutex mutex;
    for (const std::string& matrix : matrices) {
      DUO_ASSIGN_OR_RETURN(const TensorView view, file_.Get(matrix));
      if (view.rank != 2 || view.shape[1] != std::ssize(inputs)) {
        return OtherShape(matrix);
      }
      const MatrixRows row_of =
          RowsOf({.data = view.data, .dtype = view.dtype, .n_out = view.shape[0], .n_in = view.shape[1]});
      ParallelBlocks(n_threads_, view.shape[0], 64, [&](int64_t begin, int64_t end) {
        std::vector<float> row(inputs.size()), most(inputs.size(), 0.0f);
        for (int64_t r = begin; r < end; ++r) {
          row_of(r, row.data());
          for (size_t i = 0; i < row.size(); ++i) most[i] = std::max(most[i], std::fabs(row[i]));
        }
        const std::lock_guard lock(mutex);
        for (size_t i = 0; i < most.size(); ++i) weights[i] = std::max(weights[i], most[i]);
      });
      file_.Forget(view);
    }
    std::vector<float> factors(inputs.size(), 1.0f);
    for (size_t i = 0; i < factors.size(); ++i) {
      const double x = inputs[i], w = weights[i];
      if (!(x > 0 && w > 0 && std::isfinite(x) && std::isfinite(w))) continue;  // nothing to balance
      const double power = std::round(alpha * std::log2(x) - (1 - alpha) * std::log2(w));
      factors[i] = static_cast<float>(std::exp2(std::clamp(power, -kMaxPower, kMaxPower)));
    }
    return factors;
  }

  MatrixRows Rows(const std::string& name, const MatrixView& plain) const {
    MatrixRows rows = RowsOf(plain);
    const auto found = factors_.find(name);
    if (found == factors_.end()) return rows;
    const auto of_rows = divisors_.find(name);
    const float* divisors = of_rows == divisors_.end() ? nullptr : of_rows->second.data();
    return [rows = std::move(rows), &factors = found->second, divisors](int64_t row, float* out) {
      rows(row, out);
      const float divisor = divisors == nullptr ? 1.0f : divisors[row];
      for (size_t i = 0; i < factors.size(); ++i) out[i] *= factors[i] / divisor;
    };
  }

  /// A norm or a bias, divided by the smoothing factors.
  safetensors::Tensor Divided(const std::string& name, const TensorView& view) const {
    safetensors::Tensor tensor = {name, safetensors::Type::kF32, {view.shape[0]}, nullptr, {}};
    tensor.make = [view, &divisors = divisors_.at(name)]() -> Result<Buffer> {
      DUO_ASSIGN_OR_RETURN(Buffer values, Buffer::Allocate(divisors.size() * sizeof(float)));
      const auto n = std::ssize(divisors);
      RowsOf({.data = view.data, .dtype = view.dtype, .n_out = 1, .n_in = n})(0, values.as<float>());
      for (size_t i = 0; i < divisors.size(); ++i) values.as<float>()[i] /= divisors[i];
      return values;
    };
    return tensor;
  }

  Result<QuantizedMatrix> Make(const std::string& name, const MatrixView& plain, WeightType type) {
    const MatrixRows rows = Rows(name, plain);
    Result<QuantizedMatrix> quantized = QuantizeMatrix(plain.n_out, plain.n_in, rows, type, n_threads_);
    if (!quantized.ok()) return quantized.status().Annotate(file_.dir() + ": " + name);
    QuantizedMatrix made = std::move(*quantized);
    report_->matrices.push_back(Compare(name, made, rows, n_threads_));
    DUO_ASSIGN_OR_RETURN(const TensorView read, file_.Get(name));
    file_.Forget(read);
    DUO_RETURN_IF_ERROR(file_.CheckFiles(Checkpoint::Replaced::kIsFine));
    const bool go_on = !progress_ || progress_({.stage = "quantize",
                                                .done = std::ssize(report_->matrices),
                                                .total = n_matrices_,
                                                .unit = "matrices",
                                                .seconds = SecondsSince(begin_)});
    if (!go_on) return Cancelled();
    return made;
  }

  const Checkpoint& file_;
  WeightType type_;
  int n_threads_;
  const ProgressCallback& progress_;
  QuantizeReport* report_ = nullptr;
  int64_t n_matrices_ = 0;
  std::map<std::string, Buffer> scales_;
  std::map<std::string, std::vector<float>> factors_;   // by name of a matrix: multiply its columns
  std::map<std::string, std::vector<float>> divisors_;  // by name of a norm, bias or matrix: divide elements or rows
  Clock::time_point begin_ = Clock::now();
};

}  // namespace

Status CheckQuantizeOut(const std::string& dir, const std::string& out) {
  std::error_code error;
  if (std::filesystem::equivalent(dir, out, error)) {
    return InvalidArgument("{}: this is the model's own directory; name another one", out);
  }
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json"}) {
    if (FileExists(out + "/" + name)) {
      return InvalidArgument("{}: already has a {}; name another directory", out, name);
    }
  }
  return OkStatus();
}

namespace {

Status WriteConfig(const std::string& dir, WeightType type, const Smoothing& smoothing, const std::string& out) {
  DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir + "/config.json", kMaxFileBytes));
  DUO_ASSIGN_OR_RETURN(Json config, ParseJson(text, dir + "/config.json"));
  config["quantization_config"] = {{"quant_method", "duo"}, {"version", 1}, {"weights", WeightTypeName(type)}};
  if (!smoothing.layers.empty()) config["quantization_config"]["smoothing_alpha"] = smoothing.alpha;
  return WriteFileAtomic(out + "/config.json", JsonText(config, 2) + "\n");
}

}  // namespace

Result<QuantizeReport> QuantizeCheckpoint(const std::string& dir, WeightType type, const Smoothing& smoothing,
                                          const std::string& out, int n_threads, const ProgressCallback& progress) {
  DUO_ASSIGN_OR_RETURN(const HfConfig config, LoadHfConfig(dir));
  if (config.weights != WeightType::kNative) {
    return InvalidArgument("{}: its weights are already {}; quantize the checkpoint they were made from", dir,
                           WeightTypeName(config.weights));
  }
  DUO_ASSIGN_OR_RETURN(const Checkpoint file, Checkpoint::Open(dir));
  DUO_RETURN_IF_ERROR(CheckQuantizeOut(dir, out));
  QuantizeReport report;
  Maker maker(file, type, n_threads, progress);
  DUO_RETURN_IF_ERROR(maker.Smooth(config, smoothing, &report));
  DUO_ASSIGN_OR_RETURN(const std::vector<safetensors::Tensor> tensors, maker.Tensors(&report));
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (error) return IoError("{}: {}", out, error.message());
  DUO_RETURN_IF_ERROR(safetensors::WriteSafetensors(out + "/model.safetensors", tensors));
  for (const char* name : kCompanions) {
    if (!FileExists(dir + "/" + name)) continue;
    DUO_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir + "/" + name, kMaxFileBytes));
    DUO_RETURN_IF_ERROR(WriteFileAtomic(out + "/" + name, text));
  }
  DUO_RETURN_IF_ERROR(WriteConfig(dir, type, smoothing, out));
  return report;
}

}  // namespace duo
