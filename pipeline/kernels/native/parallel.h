// Work shared among threads in a way that does not change what comes out for a number of threads.
#pragma once
#include <omp.h>

#include <cstdint>

namespace groklab {

// body(first, last, thread) for each thread's share of the rows, which are cut at multiples of `unit`.
template <class Body>
void over_rows(int threads, int64_t rows, Body body, int64_t unit = 1) {
  const int64_t pieces = (rows + unit - 1) / unit;
  if (threads <= 1 || pieces < 2) {
    body(int64_t{0}, rows, 0);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t here = omp_get_thread_num(), all = omp_get_num_threads();
    const int64_t first = pieces * here / all * unit, last = pieces * (here + 1) / all * unit;
    body(first, last < rows ? last : rows, static_cast<int>(here));
  }
}

// Sums over rows, such as those of biases: each thread adds to rows of its own, and `into` adds these in their order.
struct Sums {
  float* parts;   // (threads, kSlots, width)
  int64_t width;  // the largest that is needed
  int threads;
  static constexpr int kSlots = 3;

  float* of(int thread, int slot) const { return parts + (thread * kSlots + slot) * width; }

  void clear() const {
    for (int64_t i = 0; i < threads * kSlots * width; ++i) parts[i] = 0.0f;
  }

  void into(int slot, float* total, int64_t count) const {
    for (int thread = 0; thread < threads; ++thread) {
      const float* part = of(thread, slot);
      for (int64_t i = 0; i < count; ++i) total[i] += part[i];
    }
  }
};

}  // namespace groklab
