// Storing (with conversion) and copying rows of K and V in caches on a GPU, with the contracts of Backend::StoreRows
// and CopyRows.
#pragma once

#include <cstdint>
#include <span>

#include "duo/result.h"
#include "kernels/cuda/stream.h"
#include "kernels/kv_work.h"

namespace duo {

/// Quantising gives the same codes as kernels/kv_codes.cc.
Status CudaStoreRows(CudaStream stream, std::span<const StoreTask> tasks, int head_dim, KvType type);
Status CudaCopyRows(CudaStream stream, std::span<const CopyRowsTask> tasks, int head_dim, KvType type);

}  // namespace duo
