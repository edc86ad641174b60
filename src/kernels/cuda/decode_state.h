// Layout of a decode step's partial states in its scratch.
#pragma once

namespace duo {

/// A query's state of a piece: max, sum, two unused floats, acc [head_dim]. A state and its acc begin at multiples of
/// 16 bytes.
constexpr int kStateHeader = 4;
constexpr int StateStride(int head_dim) { return kStateHeader + (head_dim + 3) / 4 * 4; }

}  // namespace duo
