// Functions of one number, written so that compilers turn loops over them into vector instructions.
//
// What is not a number stays so: nothing is compiled with -ffast-math.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace groklab {

// exp(x) = 2^n exp(r), n = round(x / log 2), r = x - n log 2, with the Taylor polynomial of degree 7, whose remainder
// for |r| <= log(2) / 2 is 5e-9. x is first brought into [-87, 88], beyond which float32 has no normal numbers.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 x 2^23, at which the next number is 1 away
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // log 2 in two parts, the first with zeros at its end
  float sum = 1.0f / 5040.0f;
  sum = sum * r + 1.0f / 720.0f;
  sum = sum * r + 1.0f / 120.0f;
  sum = sum * r + 1.0f / 24.0f;
  sum = sum * r + 1.0f / 6.0f;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  int32_t power;
  std::memcpy(&power, &shifted, sizeof power);
  power = static_cast<int32_t>(static_cast<uint32_t>(power + 127) << 23);  // of the low bits, which are n
  float scale;
  std::memcpy(&scale, &power, sizeof scale);
  return sum * scale;
}

// GELU as GPT-2 has it, x/2 (1 + tanh(u)) = x s with s = 1 / (1 + exp(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3); and its
// derivative s + 2 x s (1 - s) u'.
inline float gelu_tanh(float x, float* derivative) {
  constexpr float kRoot = 0.797884561f, kCube = 0.044715f;
  const float square = x * x;
  const float s = 1.0f / (1.0f + exponential(-2.0f * kRoot * x * (1.0f + kCube * square)));
  *derivative = s + 2.0f * x * s * (1.0f - s) * kRoot * (1.0f + 3.0f * kCube * square);
  return x * s;
}

// GELU itself, x F(x), and its derivative F(x) + x f(x), with F and f the distribution and density of a standard normal.
// F(-|x|) = exp(-x^2/2) t q(t) with t = 1 / (1 + 0.26 |x|); q was fitted to it for all x, with a relative error of 7e-8.
inline float gelu_erf(float x, float* derivative) {
  constexpr float kDensity = 0.398942280f;  // 1 / sqrt(2 pi)
  const float size = std::fabs(x), t = 1.0f / (1.0f + 0.26f * size), e = exponential(-0.5f * x * x);
  float q = 0.0164047983f;
  q = q * t - 0.0549127124f;
  q = q * t + 0.0389311686f;
  q = q * t + 0.00844484381f;
  q = q * t + 0.0402825288f;
  q = q * t + 0.0642770901f;
  q = q * t + 0.0823785092f;
  q = q * t + 0.0967449620f;
  q = q * t + 0.103723854f;
  q = q * t + 0.103725001f;
  const float tail = e * t * q, share = x > 0.0f ? 1.0f - tail : tail;
  *derivative = share + x * kDensity * e;
  return x * share;
}

// A number below zero becomes 0, and what is none stays so.
inline float relu(float x, float* derivative) {
  *derivative = x > 0.0f ? 1.0f : 0.0f;
  return x < 0.0f ? 0.0f : x;
}

}  // namespace groklab
