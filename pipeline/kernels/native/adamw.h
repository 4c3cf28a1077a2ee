// AdamW (Loshchilov & Hutter 2019) over a tensor, with the factor c of clipping put into its one pass over memory:
//   g = c dw, w -= rate decay w, m += (1 - b1) (g - m), v = b2 v + (1 - b2) g^2,
//   w -= rate / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps).
#pragma once
#include <cmath>
#include <cstdint>

namespace groklab {

struct AdamW {
  double rate, decay, beta1, beta2, epsilon;
};

inline void adamw(const AdamW& it, double step, float clip, int64_t count, float* weight, const float* gradient,
                  float* mean, float* square) {
  const float kept = static_cast<float>(1.0 - it.rate * it.decay);
  const float one = static_cast<float>(1.0 - it.beta1), b2 = static_cast<float>(it.beta2);
  const float two = static_cast<float>(1.0 - it.beta2), epsilon = static_cast<float>(it.epsilon);
  const float size = static_cast<float>(it.rate / (1.0 - std::pow(it.beta1, step)));
  const float root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(it.beta2, step)));
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float g = clip * gradient[i];
    const float m = mean[i] + one * (g - mean[i]);
    const float v = b2 * square[i] + two * g * g;
    mean[i] = m;
    square[i] = v;
    weight[i] = weight[i] * kept - size * m / (std::sqrt(v) * root + epsilon);
  }
}

// Sum of the squares, in float64 over blocks that are summed in float32.
inline double squares(const float* from, int64_t count) {
  double total = 0.0;
  for (int64_t begin = 0; begin < count; begin += 1024) {
    const int64_t end = begin + 1024 < count ? begin + 1024 : count;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += from[i] * from[i];
    total += sum;
  }
  return total;
}

}  // namespace groklab
