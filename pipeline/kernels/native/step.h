// What Python hands over for an update, and where its numbers lie.
#pragma once
#include <cstdint>

#include "norm.h"
#include "parallel.h"

namespace groklab {

enum Activation { kGeluTanh, kRelu, kGeluErf };

// The fields of `Sizes` in pipeline/kernels/compiled.py, in the same order.
struct Sizes {
  int64_t rows, length, answers;  // of the batch: B, L, A
  int64_t words, width, inner, heads, layers;  // of the model
  int64_t places, pairs;                       // learned positions; pairs of a head's numbers that rotary ones turn
  int64_t threads;
  int64_t activation;               // one of Activation
  int64_t is_neox;                  // matrices are (out, in), and queries, keys and values in the order of GPT-NeoX
  int64_t is_parallel;              // the MLP reads what attention does
  int64_t is_tied, is_stablemax;
  int64_t dropped_embedding, dropped_attention, dropped_residual;  // of 65,536
  uint64_t key;    // of the masks of this batch
  double targets;  // by which the summed loss is divided
  float epsilon;

  int64_t tokens() const { return rows * length; }
  int64_t asked() const { return rows * answers; }
  int64_t of_block(int64_t layer) const { return layer + 1 < layers ? tokens() : asked(); }  // its rows after attention
  int64_t queries(int64_t layer) const { return layer + 1 < layers ? length : answers; }
};

// The weights of the model or their gradients, in GPT-2's order (`WeightLayout` in pipeline/kernels/compiled_layout.py).
// Learned positions and the head are there only where the model has them.
struct Parts {
  float** at;
  const Sizes& sizes;

  struct Block {
    float *norm1, *norm1_shift, *attend, *attend_bias, *out, *out_bias;
    float *norm2, *norm2_shift, *up, *up_bias, *down, *down_bias;
  };

  float** of(int64_t layer) const { return at + (sizes.places ? 2 : 1) + 12 * layer; }
  float* word() const { return at[0]; }
  float* place() const { return at[1]; }
  const Block& block(int64_t layer) const { return *reinterpret_cast<const Block*>(of(layer)); }
  float* norm() const { return of(sizes.layers)[0]; }
  float* norm_shift() const { return of(sizes.layers)[1]; }
  float* head() const { return sizes.is_tied ? word() : of(sizes.layers)[2]; }
};

// The numbers that a block keeps for its backward pass: those of the last one after attention are of answers alone.
struct Kept {
  float* attend;       // weights and
  float* attend_bias;  // biases of queries, keys and values, in the order of heads.h
  float* x;       // (tokens, width), its input
  float* h;       // (tokens, width), normalized
  float* asked;   // (asked, width), rows of h; of the last block
  float* query;   // (tokens, 3 width) with keys and values; (asked, width) in the last block
  float* key;     // behind the query; (tokens, 2 width) in the last block
  float* weights; // (rows, heads, queries, length)
  float* mixed;   // (of_block, width)
  float* before;  // (of_block, width), rows of x
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
  float *dsorted, *dsorted_bias;  // gradients in the order of heads.h, where the weights lie otherwise
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
      if (s.is_neox) {
        found.attend = take(3 * width * width);
        found.attend_bias = take(3 * width);
      }
      found.x = take(tokens * width);
      found.h = take(tokens * width);
      found.asked = is_last ? take(asked * width) : nullptr;
      found.query = take(is_last ? asked * width : tokens * 3 * width);
      found.key = is_last ? take(tokens * 2 * width) : memory ? found.query + width : nullptr;
      found.weights = take(s.rows * s.heads * s.queries(layer) * s.length);
      found.mixed = take(rows * width);
      found.before = is_last ? take(asked * width) : found.x;
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
    dsorted = take(s.is_neox ? 3 * width * width : 0);
    dsorted_bias = take(s.is_neox ? 3 * width : 0);
    const int64_t queries = s.length > s.answers ? s.length : s.answers;
    const int64_t of_attention = s.heads * queries * s.length;
    each = ((of_attention > width ? of_attention : width) + s.length + 15) / 16 * 16;
    own = take(s.threads * each);
    const int64_t widest = s.inner > 3 * width ? s.inner : 3 * width;
    sums = {take(s.threads * Sums::kSlots * widest), widest, static_cast<int>(s.threads)};
  }
};

}  // namespace groklab
