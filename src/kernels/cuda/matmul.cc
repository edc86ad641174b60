#include "kernels/cuda/matmul.h"

#include <cublasLt.h>

#include <array>
#include <map>
#include <utility>

#include "base/error.h"
#include "kernels/cuda/launch.h"

namespace duo {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA recommends for Hopper

Status LtStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return OkStatus();
  return Internal("cuBLASLt: {}: {}", what, cublasLtGetStatusString(status));
}

#define DUO_RETURN_IF_LT_ERROR(call, what) DUO_RETURN_IF_ERROR(LtStatus(call, what))

struct Types {
  cudaDataType_t in, out, scale;
  cublasComputeType_t compute;
};

Types TypesOf(ComputeType type) {
  switch (type) {
    case ComputeType::kF32: return {CUDA_R_32F, CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F_PEDANTIC};
    case ComputeType::kBF16: return {CUDA_R_16BF, CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    case ComputeType::kInt8: break;
  }
  return {CUDA_R_8I, CUDA_R_32I, CUDA_R_32I, CUBLAS_COMPUTE_32I};
}

/// The alignment of an address in bytes, at most 256. An algorithm may rely on it.
uint32_t AlignmentOf(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  uint32_t bytes = 256;
  while (address % bytes != 0) bytes /= 2;
  return bytes;
}

/// The properties of a product that decide the algorithm. The library chooses one algorithm per shape.
using Shape = std::array<int64_t, 11>;
Shape ShapeOf(const CudaProduct& p) {
  return {static_cast<int64_t>(p.type),
          p.n_tokens,
          p.n_in,
          p.n_out,
          p.StrideOfX(),
          p.StrideOfW(),
          p.StrideOfOut(),
          p.x_transposed,
          p.w_transposed,
          AlignmentOf(p.x),
          AlignmentOf(p.w) << 10 | AlignmentOf(p.out)};
}

/// A shape's descriptors and the algorithm that the library chose.
class Plan {
 public:
  Plan() = default;
  Plan(Plan&& other) noexcept { *this = std::move(other); }
  Plan& operator=(Plan&& other) noexcept {
    std::swap(operation_, other.operation_);
    std::swap(layouts_, other.layouts_);
    std::swap(algorithm_, other.algorithm_);
    return *this;
  }
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : layouts_) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
    if (operation_ != nullptr) cublasLtMatmulDescDestroy(operation_);
  }

  // The library is column-major. It sees each row-major matrix as its transpose and computes out^T = w x^T.
  static Result<Plan> Make(cublasLtHandle_t lt, const CudaProduct& p) {
    const Types types = TypesOf(p.type);
    Plan plan;
    DUO_RETURN_IF_LT_ERROR(cublasLtMatmulDescCreate(&plan.operation_, types.compute, types.scale), "description");
    const cublasOperation_t of_w = p.w_transposed ? CUBLAS_OP_N : CUBLAS_OP_T;
    const cublasOperation_t of_x = p.x_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    DUO_RETURN_IF_LT_ERROR(
        cublasLtMatmulDescSetAttribute(plan.operation_, CUBLASLT_MATMUL_DESC_TRANSA, &of_w, sizeof of_w),
        "transposing");
    DUO_RETURN_IF_LT_ERROR(
        cublasLtMatmulDescSetAttribute(plan.operation_, CUBLASLT_MATMUL_DESC_TRANSB, &of_x, sizeof of_x),
        "transposing");
    const auto in = static_cast<uint64_t>(p.n_in), out = static_cast<uint64_t>(p.n_out);
    const auto tokens = static_cast<uint64_t>(p.n_tokens);
    DUO_RETURN_IF_LT_ERROR(cublasLtMatrixLayoutCreate(&plan.layouts_[0], types.in, p.w_transposed ? out : in,
                                                      p.w_transposed ? in : out, p.StrideOfW()),
                           "layout");
    DUO_RETURN_IF_LT_ERROR(cublasLtMatrixLayoutCreate(&plan.layouts_[1], types.in, p.x_transposed ? tokens : in,
                                                      p.x_transposed ? in : tokens, p.StrideOfX()),
                           "layout");
    DUO_RETURN_IF_LT_ERROR(cublasLtMatrixLayoutCreate(&plan.layouts_[2], types.out, out, tokens, p.StrideOfOut()),
                           "layout");
    cublasLtMatmulPreference_t preference = nullptr;
    DUO_RETURN_IF_LT_ERROR(cublasLtMatmulPreferenceCreate(&preference), "preference");
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      if (status != CUBLAS_STATUS_SUCCESS) return;
      status = cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, AlignmentOf(p.w));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, AlignmentOf(p.x));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, AlignmentOf(p.out));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, AlignmentOf(p.out));
    cublasLtMatmulHeuristicResult_t found = {};
    int n_found = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulAlgoGetHeuristic(lt, plan.operation_, plan.layouts_[0], plan.layouts_[1], plan.layouts_[2],
                                              plan.layouts_[2], preference, 1, &found, &n_found);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    DUO_RETURN_IF_LT_ERROR(status, "choosing an algorithm");
    if (n_found == 0 || found.state != CUBLAS_STATUS_SUCCESS) return Internal("cuBLASLt: no algorithm for this shape");
    plan.algorithm_ = found.algo;
    return plan;
  }

  Status Run(cublasLtHandle_t lt, const CudaProduct& p, void* workspace, CudaStream stream) const {
    const float scale = p.scale, one = 1, zero = 0;
    const int32_t int_one = 1, int_zero = 0;
    const bool ints = p.type == ComputeType::kInt8;
    const void* alpha = ints ? static_cast<const void*>(&int_one) : &scale;
    const void* beta = ints ? static_cast<const void*>(p.accumulate ? &int_one : &int_zero)
                            : static_cast<const void*>(p.accumulate ? &one : &zero);
    return LtStatus(cublasLtMatmul(lt, operation_, alpha, p.w, layouts_[0], p.x, layouts_[1], beta, p.out, layouts_[2],
                                   p.out, layouts_[2], &algorithm_, workspace, kWorkspaceBytes, stream.get()),
                    "matrix product");
  }

 private:
  cublasLtMatmulDesc_t operation_ = nullptr;
  std::array<cublasLtMatrixLayout_t, 3> layouts_ = {};
  cublasLtMatmulAlgo_t algorithm_ = {};
};

class LtMatmul : public CudaMatmul {
 public:
  explicit LtMatmul(CudaStream stream) : stream_(stream) {}
  ~LtMatmul() override {
    plans_.clear();
    if (workspace_ != nullptr) cudaFree(workspace_);
    if (lt_ != nullptr) cublasLtDestroy(lt_);
  }

  Status Open() {
    DUO_RETURN_IF_LT_ERROR(cublasLtCreate(&lt_), "starting");
    return CudaStatus(cudaMalloc(&workspace_, kWorkspaceBytes), "workspace of matrix products");
  }

  Status Run(const CudaProduct& p) override {
    const Shape shape = ShapeOf(p);
    auto plan = plans_.find(shape);
    if (plan == plans_.end()) {
      constexpr size_t kMaxPlans = 4096;  // prompts end in chunks of any length
      if (plans_.size() >= kMaxPlans) plans_.clear();
      DUO_ASSIGN_OR_RETURN(Plan made, Plan::Make(lt_, p));
      plan = plans_.emplace(shape, std::move(made)).first;
    }
    return plan->second.Run(lt_, p, workspace_, stream_);
  }

 private:
  CudaStream stream_;
  cublasLtHandle_t lt_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Shape, Plan> plans_;
};

}  // namespace

size_t CudaMatmul::WorkspaceBytes() { return kWorkspaceBytes; }
int64_t CudaMatmul::FullSpeedSize() { return 8192; }

Result<std::unique_ptr<CudaMatmul>> CreateCudaMatmul(CudaStream stream) {
  auto matmul = std::make_unique<LtMatmul>(stream);
  DUO_RETURN_IF_ERROR(matmul->Open());
  return std::unique_ptr<CudaMatmul>(std::move(matmul));
}

}  // namespace duo
