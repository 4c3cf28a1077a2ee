// Dropout without a stored mask: which values are kept is a function of a key and of their places.
//
// A key follows from the seed, the update, the part of its batch and the layer, so that forward and backward, and a run
// that goes on, find the same masks. 64 bits for four values are SplitMix64 (Steele et al. 2014) at a place of its
// sequence, which is a counter put through a bijection:
//   z = key + (i + 1) 0x9E3779B97F4A7C15, z = (z ^ z >> 30) 0xBF58476D1CE4E5B9, z = (z ^ z >> 27) 0x94D049BB133111EB,
//   z ^ z >> 31.
#pragma once
#include <cstdint>
#include <cstring>

namespace groklab {

inline uint64_t mixed(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}
inline uint64_t word(uint64_t key, uint64_t place) { return mixed(key + (place + 1) * 0x9E3779B97F4A7C15ull); }

// A value is kept where its 16 bits are at least `dropped` of 65,536, and then multiplied by `scale`.
struct Dropout {
  uint64_t key;
  uint32_t dropped;
  float scale;

  static Dropout of(uint64_t key, uint64_t site, uint32_t dropped) {
    return {word(key, site), dropped, 65536.0f / static_cast<float>(65536 - dropped)};
  }

  // Factors, 0 or scale, of the `count` values of a row; all rows of a key have as many.
  void factors(int64_t row, int64_t count, float* to) const {
    constexpr int64_t kBlock = 32;  // words at a time
    const int64_t words = (count + 3) / 4;
    const uint64_t first = static_cast<uint64_t>(row) * static_cast<uint64_t>(words);
    for (int64_t begin = 0; begin < words; begin += kBlock) {
      uint64_t drawn[kBlock];
      uint16_t bits[4 * kBlock];
      for (int64_t i = 0; i < kBlock; ++i) drawn[i] = word(key, first + static_cast<uint64_t>(begin + i));
      std::memcpy(bits, drawn, sizeof drawn);
      const int64_t left = count - 4 * begin, here = left < 4 * kBlock ? left : 4 * kBlock;
      for (int64_t j = 0; j < here; ++j) to[4 * begin + j] = bits[j] >= dropped ? scale : 0.0f;
    }
  }
};

}  // namespace groklab
