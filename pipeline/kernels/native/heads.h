// The order of the weights of queries, keys and values: (3, heads, each) in GPT-2 and here, (heads, 3, each) in GPT-NeoX.
#pragma once
#include <cstdint>
#include <cstring>

namespace groklab {

// From GPT-NeoX's order to ours.
inline void sort_heads(const float* from, int64_t heads, int64_t each, float* to) {
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t part = 0; part < 3; ++part)
      std::memcpy(to + (part * heads + h) * each, from + (h * 3 + part) * each, static_cast<size_t>(each) * sizeof(float));
}

// Gradients, from our order to GPT-NeoX's: written, or added.
inline void unsort_heads(const float* from, int64_t heads, int64_t each, bool adds, float* to) {
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t part = 0; part < 3; ++part) {
      const float* of = from + (part * heads + h) * each;
      float* at = to + (h * 3 + part) * each;
      for (int64_t i = 0; i < each; ++i) at[i] = adds ? at[i] + of[i] : of[i];
    }
}

}  // namespace groklab
