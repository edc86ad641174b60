// Matrix products in plain loops instead of cuBLASLt. They run in the order of the queue.
#include "base/bf16.h"
#include "cuda_on_host/cuda_runtime.h"
#include "kernels/cuda/matmul.h"

namespace duo {
namespace {

template <class In, class Out, class Widen>
void Product(const CudaProduct& p, const Widen& widen) {
  const auto* x = static_cast<const In*>(p.x);
  const auto* w = static_cast<const In*>(p.w);
  for (int64_t t = 0; t < p.n_tokens; ++t) {
    for (int64_t o = 0; o < p.n_out; ++o) {
      Out sum = 0;
      for (int64_t i = 0; i < p.n_in; ++i) {
        sum += widen(x[p.x_transposed ? i * p.StrideOfX() + t : t * p.StrideOfX() + i]) *
               widen(w[p.w_transposed ? i * p.StrideOfW() + o : o * p.StrideOfW() + i]);
      }
      sum *= static_cast<Out>(p.scale);
      Out* out = static_cast<Out*>(p.out) + t * p.StrideOfOut() + o;
      *out = p.accumulate ? *out + sum : sum;
    }
  }
}

class HostMatmul : public CudaMatmul {
 public:
  explicit HostMatmul(CudaStream stream) : stream_(stream) {}

  Status Run(const CudaProduct& p) override {
    if (p.type == ComputeType::kInt8 && !Takes(p.type, p.n_in, p.StrideOfOut()))
      return Status(StatusCode::kInternal, "a shape that cuBLASLt does not take");
    for (const void* data : {p.x, p.w, static_cast<const void*>(p.out)}) {
      if (!cuda_on_host::IsDevice(data, 1)) cuda_on_host::Die("a matrix product gets memory of the host");
    }
    stream_.get();  // sends the launches that are held back first
    cuda_on_host::Enqueue([p] {
      const cuda_on_host::DeviceAccess access;
      switch (p.type) {
        case ComputeType::kF32: Product<float, float>(p, [](float v) { return v; }); break;
        case ComputeType::kBF16: Product<bf16, float>(p, [](bf16 v) { return ToFloat(v); }); break;
        case ComputeType::kInt8: Product<int8_t, int32_t>(p, [](int8_t v) { return int32_t{v}; }); break;
      }
    });
    return OkStatus();
  }

 private:
  CudaStream stream_;
};

}  // namespace

size_t CudaMatmul::WorkspaceBytes() { return 0; }
int64_t CudaMatmul::FullSpeedSize() { return 64; }

Result<std::unique_ptr<CudaMatmul>> CreateCudaMatmul(CudaStream stream) {
  return std::unique_ptr<CudaMatmul>(std::make_unique<HostMatmul>(stream));
}

}  // namespace duo
