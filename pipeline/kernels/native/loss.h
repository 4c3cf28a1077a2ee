// Cross-entropy of a row of logits x with the label y: log(s) + max(x) - x_y with s = sum exp(x - max(x)).
//
// Its gradient, (exp(x - max(x)) - s [j = y]) / (s n), is left without its factor 1 / (s n), which is cheaper to put into
// the narrow hidden states: into those that make the head's gradient, and into the gradient of the hidden states.
#pragma once
#include <cmath>
#include <cstdint>

#include "functions.h"

namespace groklab {

constexpr int64_t kIgnored = -100;

// Turns logits into their gradient without its factor; returns the loss, and in `factor` 1 / s, or 0 where the label is
// ignored.
inline float cross_entropy(float* logits, int64_t words, int64_t label, float* factor) {
  if (label == kIgnored) {
    for (int64_t j = 0; j < words; ++j) logits[j] = 0.0f;
    *factor = 0.0f;
    return 0.0f;
  }
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

}  // namespace groklab
