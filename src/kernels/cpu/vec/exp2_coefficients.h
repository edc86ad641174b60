// Polynomials for 2^f = 1 + f (c1 + f (c2 + ...)), f in [-1/2, 1/2]. They are minimax in the relative error (Lawson
// iteration) with p(0) = 1.
#pragma once

namespace duo {

// Degree 6, relative error 2.0e-9, so the rounding of the float result dominates.
constexpr float kExp2C1 = 6.931471825e-01f;
constexpr float kExp2C2 = 2.402264774e-01f;
constexpr float kExp2C3 = 5.550332367e-02f;
constexpr float kExp2C4 = 9.618436918e-03f;
constexpr float kExp2C5 = 1.339887502e-03f;
constexpr float kExp2C6 = 1.535336196e-04f;

// Degree 4, relative error 2.8e-6: 1/700 of the last place of a bf16 weight.
constexpr float kShortExp2C1 = 6.931241751e-01f;
constexpr float kShortExp2C2 = 2.402409911e-01f;
constexpr float kShortExp2C3 = 5.590642616e-02f;
constexpr float kShortExp2C4 = 9.582852945e-03f;

constexpr float kLog2E = 1.44269504088896340736f;

}  // namespace duo
