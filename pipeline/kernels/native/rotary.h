// Rotary positions (Su et al. 2021): at position t the first 2 P numbers of each head's query and key turn in pairs,
//   (x_j, x_{P + j}) becomes (x_j cos a - x_{P + j} sin a, x_{P + j} cos a + x_j sin a), a = t f_j.
// Their gradients turn back, by -a.
#pragma once
#include <cstdint>

namespace groklab {

struct Rotary {
  const float* table;  // (positions, 2, P): cosines and sines
  int64_t pairs;       // P; 0: nothing turns
  int64_t heads, size;

  // `states` are the queries or keys of a token, those of all heads beside each other; `way` is 1, or -1 to turn back.
  void turn(int64_t position, float way, float* states) const {
    const float *cosine = table + position * 2 * pairs, *sine = cosine + pairs;
    for (int64_t h = 0; h < heads; ++h) {
      float *one = states + h * size, *other = one + pairs;
#pragma omp simd
      for (int64_t j = 0; j < pairs; ++j) {
        const float x = one[j], y = other[j], s = way * sine[j];
        one[j] = x * cosine[j] - y * s;
        other[j] = y * cosine[j] + x * s;
      }
    }
  }
};

}  // namespace groklab
