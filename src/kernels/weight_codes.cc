#include "kernels/weight_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/bf16.h"

namespace duo {
namespace {

// 1.5 * 2^23. The sum with a number below 2^22 has the nearest integer in its low bits.
constexpr float kRounder = 12582912.0f;

int32_t NearestInt(float x) {
  const float shifted = x + kRounder;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return bits - 0x4b400000;
}

// Writes a group's codes for one scale and returns the squared error.
float Encode(const float* w, float scale, uint8_t* code) {
  const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
  float error = 0;
  for (int64_t i = 0; i < kInt4Group; ++i) {
    const int32_t nearest = NearestInt(std::clamp(w[i] * inverse, -8.0f, 7.0f));
    const float off = w[i] - scale * static_cast<float>(nearest);
    error += off * off;
    code[i] = static_cast<uint8_t>(nearest + 8);
  }
  return error;
}

// At full scale the element of largest magnitude takes code 0 (-8 scales). A slightly smaller scale often fits the
// other elements better.
float ChooseScale(const float* w, uint8_t* best_code) {
  float most = 0;
  for (int64_t i = 0; i < kInt4Group; ++i) most = std::fabs(w[i]) > std::fabs(most) ? w[i] : most;
  float best = 0, least = INFINITY;
  for (const float share : {1.0f, 0.95f, 0.9f, 0.85f, 0.8f, -1.1f, -0.95f}) {
    const float scale = ToFloat(ToBf16(most / -8.0f * share));
    uint8_t code[kInt4Group];
    const float error = Encode(w, scale, code);
    if (error < least) {
      least = error;
      best = scale;
      std::memcpy(best_code, code, sizeof code);
    }
  }
  return best;
}

}  // namespace

void QuantizeInt8(const float* x, int64_t n, int8_t* out, float* scale) {
  float most = 0, poison = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float magnitude = std::fabs(x[i]);
    most = magnitude > most ? magnitude : most;
    poison += x[i] * 0.0f;
  }
  const bool some = most > 0x1p-100f && poison == 0.0f;
  *scale = (some ? most / 127.0f : 0.0f) + poison;
  const float inverse = some ? 127.0f / most : 0.0f;
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<int8_t>(some ? NearestInt(x[i] * inverse) : 0);
}

void QuantizeInt4Block(const float* w, int64_t n_rows, int64_t n_in, uint8_t* block) {
  std::memset(block, 0, Int4BlockBytes(n_in));
  for (int64_t row = 0; row < kInt4Rows; ++row) {
    for (int64_t at = 0; at < DivideUp(n_in, kInt4Inputs) * kInt4Inputs; at += kInt4Group) {
      float group[kInt4Group] = {};
      if (row < n_rows && at < n_in) {
        std::memcpy(group, w + row * n_in + at, std::min(kInt4Group, n_in - at) * sizeof(float));
      }
      uint8_t code[kInt4Group] = {};
      const bf16 scale = ToBf16(ChooseScale(group, code));
      uint8_t* piece = block + at / kInt4Inputs * kInt4PieceBytes;
      const int64_t half = at / kInt4Group % 2;
      for (int64_t word = 0; word < 4; ++word) {
        for (int64_t i = 0; i < 4; ++i) {
          piece[Int4WordAt(half, word, row) + i] =
              static_cast<uint8_t>(code[word * 8 + i] | code[word * 8 + 4 + i] << 4);
        }
      }
      std::memcpy(piece + Int4ScaleAt(half, row), &scale, sizeof scale);
    }
  }
}

}  // namespace duo
