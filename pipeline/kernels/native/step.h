// What Python hands over for an update, and where its numbers lie.
#pragma once
#include <cstdint>

#include "norm.h"
#include "parallel.h"

namespace groklab {

// The fields of `Sizes` in pipeline/kernels/compiled.py, in the same order.
struct Sizes {
  int64_t rows, length, answers;  // of the batch: B, L, A
  int64_t words, width, inner, heads, layers, places;  // of the model; places: learned positions
  int64_t threads;
  int64_t is_tied, is_relu, is_stablemax;
  int64_t dropped_embedding, dropped_attention, dropped_residual;  // of 65,536
  uint64_t key;    // of the masks of this batch
  double targets;  // by which the summed loss is divided
  float epsilon;

  int64_t tokens() const { return rows * length; }
  int64_t asked() const { return rows * answers; }
  int64_t of_block(int64_t layer) const { return layer + 1 < layers ? tokens() : asked(); }  // its rows after attention
  int64_t queries(int64_t layer) const { return layer + 1 < layers ? length : answers; }
};

// The weights of the model or their gradients, in the order of transformers' named_parameters.
struct Parts {
  float** at;
  const Sizes& sizes;

  struct Block {
    float *norm1, *norm1_shift, *attend, *attend_bias, *out, *out_bias;
    float *norm2, *norm2_shift, *up, *up_bias, *down, *down_bias;
  };

  float* word() const { return at[0]; }
  float* place() const { return at[1]; }
  const Block& block(int64_t layer) const { return *reinterpret_cast<const Block*>(at + 2 + 12 * layer); }
  float* norm() const { return at[2 + 12 * sizes.layers]; }
  float* norm_shift() const { return at[3 + 12 * sizes.layers]; }
  float* head() const { return sizes.is_tied ? word() : at[4 + 12 * sizes.layers]; }
};

// The numbers that a block keeps for its backward pass: those of the last one after attention are of answers alone.
struct Kept {
  float* x;       // (tokens, width), its input
  float* h;       // (tokens, width), normalized
  float* asked;   // (asked, width), rows of h; of the last block
  float* query;   // (tokens, 3 width) with keys and values; (asked, width) in the last block
  float* key;     // behind the query; (tokens, 2 width) in the last block
  float* weights; // (rows, heads, queries, length)
  float* mixed;   // (of_block, width)
  float* x2;      // (of_block, width), after attention
  float* h2;      // (of_block, width), normalized
  float* slope;   // (of_block, inner), derivative of the activation
  float* active;  // (of_block, inner)
  Moments *moments, *moments2;
};

// All numbers of an update beside weights and gradients, in one piece of memory.
struct Room {
  Kept* blocks;
  float *x, *h, *logits, *factors;  // after the last block, of answers
  Moments* moments;
  float *product, *dx, *dx_asked, *dh, *dz, *dinner, *dattend;  // that are used again in each block
  float* own;   // (threads, each), for the factors of dropout of a row, and in attention for `length` numbers more
  int64_t each;
  Sums sums;
  int64_t used;  // floats

  // Lays everything out; without memory, counts it. `blocks` has room for each layer.
  Room(const Sizes& s, float* memory, Kept* blocks) : blocks(blocks), used(0) {
    const auto take = [&](int64_t count) {
      float* found = memory ? memory + used : nullptr;
      used += (count + 15) / 16 * 16;
      return found;
    };
    const int64_t tokens = s.tokens(), asked = s.asked(), width = s.width;
    for (int64_t layer = 0; layer < s.layers; ++layer) {
      const bool is_last = layer + 1 == s.layers;
      const int64_t rows = s.of_block(layer);
      Kept found{};
      found.x = take(tokens * width);
      found.h = take(tokens * width);
      found.asked = is_last ? take(asked * width) : nullptr;
      found.query = take(is_last ? asked * width : tokens * 3 * width);
      found.key = is_last ? take(tokens * 2 * width) : memory ? found.query + width : nullptr;
      found.weights = take(s.rows * s.heads * s.queries(layer) * s.length);
      found.mixed = take(rows * width);
      found.x2 = take(rows * width);
      found.h2 = take(rows * width);
      found.slope = take(rows * s.inner);
      found.active = take(rows * s.inner);
      found.moments = reinterpret_cast<Moments*>(take(2 * tokens));
      found.moments2 = reinterpret_cast<Moments*>(take(2 * rows));
      if (memory) blocks[layer] = found;
    }
    x = take(asked * width);
    h = take(asked * width);
    logits = take(asked * s.words);
    factors = take(asked);
    moments = reinterpret_cast<Moments*>(take(2 * asked));
    const int64_t most = tokens > asked ? tokens : asked;
    product = take(most * width);
    dx = take(most * width);
    dx_asked = take(asked * width);
    dh = take(most * width);
    dz = take(most * width);
    dinner = take(most * s.inner);
    dattend = take(tokens * 3 * width + asked * width);
    const int64_t queries = s.length > s.answers ? s.length : s.answers;
    const int64_t of_attention = s.heads * queries * s.length;
    each = ((of_attention > width ? of_attention : width) + s.length + 15) / 16 * 16;
    own = take(s.threads * each);
    const int64_t widest = s.inner > 3 * width ? s.inner : 3 * width;
    sums = {take(s.threads * Sums::kSlots * widest), widest, static_cast<int>(s.threads)};
  }
};

}  // namespace groklab
