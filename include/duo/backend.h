// A backend runs the maths. It owns threads or a device; models and sessions borrow it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "duo/dtype.h"
#include "duo/result.h"

namespace duo {

enum class Device : uint8_t { kCpu, kCuda };

struct BackendOptions {
  Device device = Device::kCpu;
  /// CPU threads, at most 1024; 0 = one per core that this process may use.
  int n_threads = 0;
};

class Backend;

struct BackendDeleter {
  void operator()(Backend* backend) const;
};
using BackendPtr = std::unique_ptr<Backend, BackendDeleter>;

/// Creates a backend. The environment variable DUO_ISA forces an instruction set. It is read once, and the library
/// reads no other variable.
///
/// Returns kInvalidArgument if an option is bad or DUO_ISA is unknown, and kUnsupported if this build or machine lacks
/// the device or the instruction set.
///
/// Only one thread at a time may use a backend and the models and sessions that borrow it.
Result<BackendPtr> CreateBackend(const BackendOptions& options);

/// A description for people and JSON: "cpu, avx512_bf16, 2 threads".
std::string DescribeBackend(const Backend& backend);
int BackendThreads(const Backend& backend);
/// Bytes that can still be allocated from the memory that the backend works in: the process's memory, or the device's.
uint64_t BackendAvailableBytes(const Backend& backend);

}  // namespace duo
