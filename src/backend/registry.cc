// The one list of backends.
#include "backend/cpu_backend.h"
#include "base/error.h"
#include "duo/backend.h"

#ifdef DUO_CUDA
#include "backend/cuda_backend.h"
#endif

namespace duo {

void BackendDeleter::operator()(Backend* backend) const { delete backend; }

Result<BackendPtr> CreateBackend(const BackendOptions& options) {
  switch (options.device) {
    case Device::kCpu: return CreateCpuBackend(options);
    case Device::kCuda:
#ifdef DUO_CUDA
      return CreateCudaBackend();
#else
      break;
#endif
  }
  return Unsupported("this build of duo has no CUDA backend; every build has the CPU backend").About("device");
}

std::string DescribeBackend(const Backend& backend) { return backend.Describe(); }
int BackendThreads(const Backend& backend) { return backend.n_threads(); }
uint64_t BackendAvailableBytes(const Backend& backend) { return backend.AvailableBytes(); }

}  // namespace duo
