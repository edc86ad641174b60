// Chooses the loop and its policy for a type of cache, for a vector type V (vec_<isa>.h). The *FloatProducts functions
// multiply floats only. DecodePairProducts multiplies codes as pairs of 16-bit numbers.
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/attention/code_pairs.h"
#include "kernels/cpu/attention/code_products.h"
#include "kernels/cpu/attention/code_tiles.h"
#include "kernels/cpu/attention/decode_codes_loop.h"
#include "kernels/cpu/attention/decode_loop.h"
#include "kernels/cpu/attention/kv_rows.h"
#include "kernels/cpu/attention/prefill_loop.h"
#include "kernels/cpu/vec/vec_concept.h"

namespace duo {
namespace {

template <Vec V>
void DecodeFloatProducts(const DecodeAttention& a) {
  switch (a.shape.kv_type) {
    case KvType::kF32: return DecodeLoop<V, F32Cache<V>>::Run(a);
    case KvType::kBF16: return DecodeLoop<V, WidenedBf16Cache<V>>::Run(a);
    case KvType::kInt8: return DecodeCodesLoop<V, FloatCodes<V, 8>>::Run(a);
    case KvType::kInt4: return DecodeCodesLoop<V, FloatCodes<V, 4>>::Run(a);
  }
}

template <PairVec V>
void DecodePairProducts(const DecodeAttention& a) {
  if (a.shape.kv_type == KvType::kInt8 && a.shape.compute != ComputeType::kF32) {
    DecodeCodesLoop<V, PairCodes<V, 8>>::Run(a);
  } else if (a.shape.kv_type == KvType::kInt4 && a.shape.compute != ComputeType::kF32) {
    DecodeCodesLoop<V, PairCodes<V, 4>>::Run(a);
  } else {
    DecodeFloatProducts<V>(a);
  }
}

template <Vec V>
void PrefillFloatProducts(const PrefillAttention& a) {
  switch (a.shape.kv_type) {
    case KvType::kF32: return PrefillLoop<V, F32Cache<V>>::Run(a);
    case KvType::kBF16: return PrefillLoop<V, WidenedBf16Cache<V>>::Run(a);
    case KvType::kInt8: return PrefillLoop<V, FloatCodeTiles<V, 8>>::Run(a);
    case KvType::kInt4: return PrefillLoop<V, FloatCodeTiles<V, 4>>::Run(a);
  }
}

}  // namespace
}  // namespace duo
