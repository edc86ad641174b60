#include "backend/cpu_meter.h"

namespace duo {
namespace {

DType TypeOf(ComputeType compute) {
  switch (compute) {
    case ComputeType::kF32: return DType::kF32;
    case ComputeType::kBF16: return DType::kBF16;
    case ComputeType::kInt8: break;
  }
  return DType::kI8;
}

}  // namespace

Result<double> CpuMeter::MeasureReadBandwidth() {
  if (!read_bandwidth_) {
    DUO_ASSIGN_OR_RETURN(read_bandwidth_, ReadBandwidth::Create(isa_, n_threads_));
  }
  return read_bandwidth_->Measure();
}

Result<double> CpuMeter::MeasureGemm(ComputeType compute) {
  return MeasureGemmGflops(isa_, TypeOf(compute), n_threads_);
}

}  // namespace duo
