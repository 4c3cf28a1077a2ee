// Causal attention over the few tokens of a row, each row of the batch by itself.
//
//   w = softmax_k(scale q k), m = sum_k d w v, with d the factors of dropout, for keys up to the query's position.
// Backward, from dm:
//   dv_k += d w dm, e_k = d (dm v_k), g_k = w (e_k - sum w e), dq += scale g k, dk += scale g q.
#pragma once
#include <cmath>
#include <cstdint>

#include "dropout.h"
#include "functions.h"

namespace groklab {

// Queries (rows of `queries` per row of the batch) and keys and values (`length` per row), by row of the batch:
// numbers of a token lie together, those of the next token `query_row` or `key_row` further.
struct Attention {
  int64_t length, queries, heads, size;  // size: the width of a head
  int64_t query_row, key_row;
  float scale;
  const int64_t* places;  // (queries,) positions of the queries of a row; null: 0, 1, ...
  const Dropout* dropout;  // null: none

  int64_t place(int64_t query) const { return places ? places[query] : query; }
  int64_t seen(int64_t query) const { return place(query) + 1; }
};

inline float dot(const float* one, const float* other, int64_t size) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < size; ++c) sum += one[c] * other[c];
  return sum;
}

inline void add(float factor, const float* from, int64_t size, float* to) {
#pragma omp simd
  for (int64_t c = 0; c < size; ++c) to[c] += factor * from[c];
}

// `weights` (heads, queries, length) are kept for the backward pass; `mixed` is (queries, heads x size). `kept` has room
// for as many factors as there are weights.
inline void attend(const Attention& it, int64_t row, const float* query, const float* key, const float* value,
                   float* weights, float* mixed, float* kept) {
  const int64_t width = it.heads * it.size;
  if (it.dropout) it.dropout->factors(row, it.heads * it.queries * it.length, kept);
  for (int64_t i = 0; i < it.queries * width; ++i) mixed[i] = 0.0f;
  for (int64_t h = 0; h < it.heads; ++h)
    for (int64_t q = 0; q < it.queries; ++q) {
      const float* from = query + q * it.query_row + h * it.size;
      float* w = weights + (h * it.queries + q) * it.length;
      const int64_t seen = it.seen(q);
      float largest = -INFINITY, sum = 0.0f;
      for (int64_t k = 0; k < seen; ++k) {
        w[k] = it.scale * dot(from, key + k * it.key_row + h * it.size, it.size);
        largest = w[k] > largest ? w[k] : largest;
      }
      for (int64_t k = 0; k < seen; ++k) sum += w[k] = exponential(w[k] - largest);
      const float* factor = kept + (h * it.queries + q) * it.length;
      for (int64_t k = 0; k < seen; ++k) {
        w[k] /= sum;
        add(it.dropout ? w[k] * factor[k] : w[k], value + k * it.key_row + h * it.size, it.size,
            mixed + q * width + h * it.size);
      }
    }
}

// Adds to dquery, dkey and dvalue, which lie as query, key and value do.
inline void attend_backward(const Attention& it, int64_t row, const float* query, const float* key, const float* value,
                            const float* weights, const float* dmixed, float* dquery, float* dkey, float* dvalue,
                            float* kept, float* e) {
  const int64_t width = it.heads * it.size;
  if (it.dropout) it.dropout->factors(row, it.heads * it.queries * it.length, kept);
  for (int64_t h = 0; h < it.heads; ++h)
    for (int64_t q = 0; q < it.queries; ++q) {
      const float* w = weights + (h * it.queries + q) * it.length;
      const float* dm = dmixed + q * width + h * it.size;
      const int64_t seen = it.seen(q), own = q * it.query_row + h * it.size;
      float along = 0.0f;
      for (int64_t k = 0; k < seen; ++k) {
        const int64_t other = k * it.key_row + h * it.size;
        const float factor = it.dropout ? kept[(h * it.queries + q) * it.length + k] : 1.0f;
        e[k] = factor * dot(dm, value + other, it.size);
        along += w[k] * e[k];
        add(factor * w[k], dm, it.size, dvalue + other);
      }
      for (int64_t k = 0; k < seen; ++k) {
        const int64_t other = k * it.key_row + h * it.size;
        const float g = it.scale * w[k] * (e[k] - along);
        add(g, key + other, it.size, dquery + own);
        add(g, query + own, it.size, dkey + other);
      }
    }
}

}  // namespace groklab
