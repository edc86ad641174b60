// Where the maths runs. A backend owns threads or a device; models and sessions borrow it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "duo/result.h"

namespace duo {

enum class Device : uint8_t { kCpu, kCuda };

/// How activations and products are computed.
enum class ComputeType : uint8_t {
  kF32,   // the checking mode: float activations, products and accumulation everywhere
  kBF16,  // inputs of matrix products rounded to bf16; accumulation, residual stream and softmax statistics in float
  kInt8,  // inputs of matrix products in multiples of their token's largest / 127 (W8A8); needs int8 weights
};

/// "f32", "bf16", "int8".
const char* ComputeTypeName(ComputeType type);

struct BackendOptions {
  Device device = Device::kCpu;
  /// Threads for the CPU; 0 = every core this process may use. At most 1024.
  int n_threads = 0;
};

class Backend;

struct BackendDeleter {
  void operator()(Backend* backend) const;
};
using BackendPtr = std::unique_ptr<Backend, BackendDeleter>;

/// Reads DUO_ISA once (the library's only look at the environment) to force an instruction set.
/// kInvalidArgument for bad options or an unknown DUO_ISA, kUnsupported for a device or instruction set that this build
/// or machine lacks. A backend, and whatever borrows it, is used by one thread at a time.
Result<BackendPtr> CreateBackend(const BackendOptions& options);

/// For people and JSON: "cpu, avx512_bf16, 2 threads".
std::string DescribeBackend(const Backend& backend);
int BackendThreads(const Backend& backend);

}  // namespace duo
