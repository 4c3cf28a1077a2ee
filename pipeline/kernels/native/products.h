// c = op(a) op(b), or c += op(a) op(b), of row-major float32 matrices.
//
// Tiles of c of kTall x kWide stay in registers while one block of the sum goes over them. For each block, kDeep long,
// of the sum, b lies packed in columns of kWide, which the second cache holds; the rows of a that a tile needs are in
// the first. A number of c is added up in the same order for any number of threads.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.h"

namespace groklab {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTall = 12;
#else
constexpr int kLanes = 8, kTall = 6;
#endif
constexpr int kWide = 2 * kLanes;
constexpr int64_t kDeep = 256, kColumns = 16 * kWide, kSlice = 8 * kTall;

typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef float Loose __attribute__((vector_size(4 * kLanes), aligned(4)));  // at any address

// A matrix that may be read as its transpose: element (i, j) is at[i * row + j * column].
struct Matrix {
  const float* at;
  int64_t row, column;
};
inline Matrix plain(const float* at, int64_t width) { return {at, width, 1}; }
inline Matrix turned(const float* at, int64_t width) { return {at, 1, width}; }

// A tile of kRows x kWide: tile_rj (+)= sum_k a_rk b_kj, of which `columns` are written.
template <int kRows>
void tile(int64_t deep, const float* a, int64_t a_row, int64_t a_step, const float* b, bool adds, float* c,
          int64_t c_row, int64_t columns) {
  Lanes sum[kRows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = Lanes{};
  for (int64_t k = 0; k < deep; ++k, b += kWide, a += a_step) {
    const Lanes left = *reinterpret_cast<const Loose*>(b), right = *reinterpret_cast<const Loose*>(b + kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const float factor = a[r * a_row];
      sum[r][0] += factor * left;
      sum[r][1] += factor * right;
    }
  }
  if (columns == kWide) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      Loose* to = reinterpret_cast<Loose*>(c + r * c_row);
      Loose* next = reinterpret_cast<Loose*>(c + r * c_row + kLanes);
      *to = adds ? *to + sum[r][0] : sum[r][0];
      *next = adds ? *next + sum[r][1] : sum[r][1];
    }
    return;
  }
  float rows[kRows][kWide];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r) {
    *reinterpret_cast<Loose*>(rows[r]) = sum[r][0];
    *reinterpret_cast<Loose*>(rows[r] + kLanes) = sum[r][1];
  }
  for (int r = 0; r < kRows; ++r)
    for (int64_t j = 0; j < columns; ++j) c[r * c_row + j] = (adds ? c[r * c_row + j] : 0.0f) + rows[r][j];
}

using Tile = decltype(&tile<1>);
#if defined(__AVX512F__)
constexpr Tile kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
                           tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};
#else
constexpr Tile kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};
#endif

// Packs b (deep, columns) into panels (deep, kWide) below each other, the last one filled up with zeros.
inline void pack(Matrix b, int64_t deep, int64_t columns, float* to) {
  for (int64_t j = 0; j < columns; j += kWide, to += deep * kWide) {
    const int64_t count = std::min<int64_t>(kWide, columns - j);
    const float* from = b.at + j * b.column;
    if (count < kWide) std::memset(to, 0, deep * kWide * sizeof(float));
    if (b.column == 1) {
      for (int64_t k = 0; k < deep; ++k) std::memcpy(to + k * kWide, from + k * b.row, count * sizeof(float));
    } else {
      for (int64_t first = 0; first < deep; first += kLanes) {  // by blocks that the first cache holds
        const int64_t last = std::min<int64_t>(deep, first + kLanes);
        for (int64_t i = 0; i < count; ++i)
          for (int64_t k = first; k < last; ++k) to[k * kWide + i] = from[i * b.column + k * b.row];
      }
    }
  }
}

// c (rows, columns), whose rows are c_row apart, = or += a (rows, deep) b (deep, columns).
inline void multiply(int threads, int64_t rows, int64_t columns, int64_t deep, Matrix a, Matrix b, bool adds, float* c,
                     int64_t c_row) {
  const auto part = [&](int64_t top, int64_t bottom, int64_t left, int64_t right) {
    alignas(64) static thread_local float packed[kDeep * kColumns], slice[kSlice * kDeep];
    for (int64_t j = left; j < right; j += kColumns) {
      const int64_t wide = std::min(kColumns, right - j);
      for (int64_t k = 0; k < deep; k += kDeep) {
        const int64_t length = std::min(kDeep, deep - k);
        pack({b.at + k * b.row + j * b.column, b.row, b.column}, length, wide, packed);
        for (int64_t i = top; i < bottom; i += kTall) {
          const int64_t count = std::min<int64_t>(kTall, bottom - i);
          const float* from = a.at + i * a.row + k * a.column;
          int64_t row = a.row, step = a.column;
          if (a.column != 1) {  // rows lie beside each other, and those of several tiles are read at once
            const int64_t place = (i - top) % kSlice, ahead = std::min(kSlice, bottom - i);
            for (int64_t s = 0; place == 0 && s < length; ++s)
              for (int64_t r = 0; r < ahead; ++r) slice[s * kSlice + r] = from[r * a.row + s * a.column];
            from = slice + place, row = 1, step = kSlice;
          }
          for (int64_t panel = 0; panel < wide; panel += kWide)
            kTiles[count - 1](length, from, row, step, packed + panel * length, adds || k > 0,
                              c + i * c_row + j + panel, c_row, std::min<int64_t>(kWide, wide - panel));
        }
      }
    }
  };
  if (rows >= columns)
    over_rows(threads, rows, [&](int64_t top, int64_t bottom, int) { part(top, bottom, 0, columns); }, kTall);
  else
    over_rows(threads, columns, [&](int64_t left, int64_t right, int) { part(0, rows, left, right); }, kWide);
}

}  // namespace groklab
