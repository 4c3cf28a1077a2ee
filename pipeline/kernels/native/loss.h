// The loss of a row of logits x with the label y.
//
//   cross-entropy: log(s) + max(x) - x_y with s = sum exp(x - max(x)), and its gradient (exp(x - max(x)) - s [j = y]) / s
//   StableMax: log(s) - log g(x_y) with s = sum g(x), g(x) = x + 1 for x >= 0 and 1 / (1 - x) below; its gradient is
//     g'(x_j) / s, and at the label -g'(x_y) (s - g(x_y)) / (g(x_y) s)
//
// Gradients are left without their factor 1 / s, which is cheaper to put into the narrow hidden states: into those that
// make the head's gradient, and into the gradient of the hidden states.
#pragma once
#include <cmath>
#include <cstdint>

#include "functions.h"

namespace groklab {

constexpr int64_t kIgnored = -100;

// Turns logits into their gradient without its factor; returns the loss, and in `factor` 1 / s.
inline double cross_entropy(float* logits, int64_t words, int64_t label, float* factor) {
  float largest = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < words; ++j) largest = logits[j] > largest ? logits[j] : largest;
  const float right = logits[label];
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < words; ++j) {
    logits[j] = exponential(logits[j] - largest);
    sum += logits[j];
  }
  logits[label] -= sum;
  *factor = 1.0f / sum;
  return std::log(sum) + largest - right;
}

// The same for StableMax, in float64 as its authors have it: what all other words add up to may be below the rounding of
// g(x_y) in float32, so that it is summed for itself.
inline double stablemax(float* logits, int64_t words, int64_t label, float* factor) {
  const auto of = [](double x) { return x >= 0.0 ? x + 1.0 : 1.0 / (1.0 - x); };
  const auto slope = [](double x, double g) { return x >= 0.0 ? 1.0 : g * g; };
  const double x = logits[label], right = of(x);
  double others = 0.0;
  const auto add_up = [&](int64_t begin, int64_t end) {
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = begin; j < end; ++j) {
      const double z = logits[j], g = of(z);
      sum += g;
      logits[j] = static_cast<float>(slope(z, g));
    }
    others += sum;
  };
  add_up(0, label);
  add_up(label + 1, words);
  logits[label] = static_cast<float>(-slope(x, right) * others / right);
  *factor = static_cast<float>(1.0 / (others + right));
  return std::log1p(others / right);
}

// Either of them; a row whose label is ignored has no loss and no gradient.
inline double loss_of(bool is_stablemax, float* logits, int64_t words, int64_t label, float* factor) {
  if (label == kIgnored) {
    for (int64_t j = 0; j < words; ++j) logits[j] = 0.0f;
    *factor = 0.0f;
    return 0.0;
  }
  return (is_stablemax ? stablemax : cross_entropy)(logits, words, label, factor);
}

}  // namespace groklab
