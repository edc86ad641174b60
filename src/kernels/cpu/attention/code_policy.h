// The policies that multiply the codes of quantised rows (kernels/kv_codes.h) for decode_codes_loop.h. A policy P
// belongs to one width of codes and one vector type V (vec_concept.h). All functions are static.
//
// code_products.h multiplies floats, code_pairs.h pairs of 16-bit numbers, and code_products_avx512_vnni.h bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vec/vec_concept.h"

namespace duo {

// Facts about a prepared query that scores need: q ~ step * prepared, and sum = the sum of step * prepared over
// head_dim.
struct QueryFacts {
  float step;
  float sum;
};

/// Codes are read as vectors of words, one word of four bytes per lane.
template <class P, class V>
concept CodeProducts = Vec<V> &&
    requires(typename V::F f, typename V::F step, typename P::Code* codes, typename P::Code code, typename P::Acc acc,
             typename P::Sum sum, typename P::Weight weight, QueryFacts facts, const float* floats, const char* p,
             char* out, float x, float largest, int head_dim, int padded_dim, int n, int quad, int t) {
  n = P::kBits;       // of a code: 8 or 4
  n = P::kBlockRows;  // rows per round of the online softmax, a multiple of 16

  // Keys: a lane is a row. A word is split into kKeyCodes operands. Each is multiplied with a word of the prepared
  // query, which has kQueryBytes per dimension.
  n = P::kKeyCodes;
  n = P::kQueryBytes;
  facts = P::PrepareQuery(floats, head_dim, padded_dim, out);  // with zeros after head_dim
  P::SplitKeys(p, codes);
  code = P::Broadcast(p);  // a word of the query in every lane
  acc = P::ZeroAcc();
  acc = P::KeyMulAdd(code, code, acc);  // acc + code of a key * the query's
  f = P::ToFloat(acc);

  // Values: a lane is a dimension. A word has a code of each of four rows (a quad), and of two dimensions if kOutputs
  // is 2. It is split into kTerms operands for each output: operand [output * kTerms + t].
  n = P::kOutputs;
  n = P::kTerms;
  n = P::kPassWords;    // vectors of words that a pass over a block's rows adds up
  n = P::kWeightBytes;  // per row, as StoreWeights writes them
  P::SplitValues(p, codes);
  // Rounds n weights, a multiple of 16, of which `largest` is the largest. Returns their step.
  x = P::StoreWeights(floats, n, largest, out);
  weight = P::LoadWeight(p, quad, t);  // of the rows of term t of a quad
  sum = P::ZeroSum();
  sum = P::ValueMulAdd(code, weight, sum);
  f = P::Total(sum, step);  // the sum in weights of this step
};

}  // namespace duo
