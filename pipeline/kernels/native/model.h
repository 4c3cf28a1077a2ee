// GPT-2 or GPT-NeoX over a batch of short rows: what its forward and its backward pass share.
//
// The numbers are those of transformers' modules; logits, and the last block after its keys and values, are computed at
// the positions of answers alone. Names in comments: B rows, L tokens, A answers.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention.h"
#include "dropout.h"
#include "heads.h"
#include "linear.h"
#include "norm.h"
#include "parallel.h"
#include "rotary.h"
#include "step.h"

namespace groklab {

enum Site { kOfAttention, kAfterAttention, kAfterMlp, kSites };

struct Inputs {
  const int64_t *tokens, *positions, *labels;  // (B, L), (B, A), (B, A)
  const float* rotation;                       // (L, 2, pairs), of Rotary
};

class Model {
 protected:
  const Sizes& s;
  const Parts weights;
  std::vector<Kept> kept;
  Room room;
  const Inputs in;

  Model(const Sizes& sizes, float** weights, float* memory, const Inputs& inputs)
      : s(sizes), weights{weights, s}, kept(static_cast<size_t>(s.layers)), room(s, memory, kept.data()), in(inputs) {
    for (int64_t layer = 0; layer < s.layers; ++layer) {
      const Parts::Block& w = this->weights.block(layer);
      Kept& k = kept[static_cast<size_t>(layer)];
      if (s.is_neox) {
        sort_heads(w.attend, s.heads, s.width / s.heads * s.width, k.attend);
        sort_heads(w.attend_bias, s.heads, s.width / s.heads, k.attend_bias);
      } else {
        k.attend = w.attend;
        k.attend_bias = w.attend_bias;
      }
    }
  }

  Dropout dropout(int64_t layer, Site site) const {
    const int64_t dropped = site == kOfAttention ? s.dropped_attention : s.dropped_residual;
    return Dropout::of(s.key, static_cast<uint64_t>(layer * kSites + site), static_cast<uint32_t>(dropped));
  }
  Dropout embedding_dropout() const {
    return Dropout::of(s.key, static_cast<uint64_t>(s.layers * kSites), static_cast<uint32_t>(s.dropped_embedding));
  }
  float* own(int thread) const { return room.own + thread * room.each; }
  // The token of an answer, among all of the batch.
  int64_t token_of(int64_t answer) const { return answer / s.answers * s.length + in.positions[answer]; }

  template <class Body>
  void over(int64_t rows, Body body) const {
    over_rows(threads(), rows, body);
  }
  int threads() const { return static_cast<int>(s.threads); }
  Linear linear(float* at, int64_t in, int64_t out) const { return Linear::of(at, in, out, s.is_neox != 0); }
  Linear head_of(const Parts& parts) const { return Linear::of(parts.head(), s.width, s.words, true); }

  Norm norm(const float* scale, const float* shift) const { return {scale, shift, s.epsilon}; }
  // The norm that reads what a block gives: the next block's first, or the last one.
  Norm norm_after(int64_t layer) const {
    if (layer + 1 == s.layers) return norm(weights.norm(), weights.norm_shift());
    return norm(weights.block(layer + 1).norm1, weights.block(layer + 1).norm1_shift);
  }

  Rotary rotary() const { return {in.rotation, s.pairs, s.heads, s.width / s.heads}; }
  Attention attention(int64_t layer, int64_t row, const Dropout& drop) const {
    const bool is_last = layer + 1 == s.layers;
    const int64_t size = s.width / s.heads;
    return {s.length, s.queries(layer), s.heads, size, is_last ? s.width : 3 * s.width,
            is_last ? 2 * s.width : 3 * s.width, 1.0f / std::sqrt(static_cast<float>(size)),
            is_last ? in.positions + row * s.answers : nullptr, drop.dropped ? &drop : nullptr};
  }
};

}  // namespace groklab
