// LayerNorm over the numbers of a row: n = (x - mean) / sqrt(var + eps), y = n scale + shift.
#pragma once
#include <cmath>
#include <cstdint>

namespace groklab {

struct Norm {
  const float *scale, *shift;
  float epsilon;
};

// What the backward pass needs of a row beside x.
struct Moments {
  float mean, inverse;  // 1 / sqrt(var + eps)
};

inline Moments normalize(const float* x, int64_t width, const Norm& norm, float* y) {
  float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < width; ++j) sum += x[j];
  const float mean = sum / static_cast<float>(width);
#pragma omp simd reduction(+ : squares)
  for (int64_t j = 0; j < width; ++j) squares += (x[j] - mean) * (x[j] - mean);
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(width) + norm.epsilon);
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) y[j] = (x[j] - mean) * inverse * norm.scale[j] + norm.shift[j];
  return {mean, inverse};
}

// dx += inverse (g - mean(g) - n mean(g n)) with g = dy scale; dscale += dy n; dshift += dy.
inline void normalize_backward(const float* dy, const float* x, Moments found, const float* scale, int64_t width,
                               float* dx, float* dscale, float* dshift) {
  float sum = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : sum, along)
  for (int64_t j = 0; j < width; ++j) {
    const float n = (x[j] - found.mean) * found.inverse, g = dy[j] * scale[j];
    sum += g;
    along += g * n;
    dscale[j] += dy[j] * n;
    dshift[j] += dy[j];
  }
  const float mean = sum / static_cast<float>(width), share = along / static_cast<float>(width);
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) {
    const float n = (x[j] - found.mean) * found.inverse;
    dx[j] += found.inverse * (dy[j] * scale[j] - mean - n * share);
  }
}

}  // namespace groklab
