// The forward pass of GPT-2, which keeps what the backward pass needs.
#pragma once
#include "functions.h"
#include "model.h"

namespace groklab {

class Forward : public Model {
 protected:
  using Model::Model;

  void forward() const {
    embed();
    for (int64_t layer = 0; layer < s.layers; ++layer) block(layer);
  }

 private:
  // x = dropout(word + place), h = norm(x)
  void embed() const {
    const Dropout drop = embedding_dropout();
    const Kept& to = room.blocks[0];
    const Norm first = norm(weights.block(0).norm1, weights.block(0).norm1_shift);
    over(s.tokens(), [&](int64_t begin, int64_t end, int thread) {
      float* factor = own(thread);
      for (int64_t i = begin; i < end; ++i) {
        const float* word = weights.word() + in.tokens[i] * s.width;
        const float* place = weights.place() + i % s.length * s.width;
        float* x = to.x + i * s.width;
        if (drop.dropped) {
          drop.factors(i, s.width, factor);
          for (int64_t j = 0; j < s.width; ++j) x[j] = factor[j] * (word[j] + place[j]);
        } else {
          for (int64_t j = 0; j < s.width; ++j) x[j] = word[j] + place[j];
        }
        to.moments[i] = normalize(x, s.width, first, to.h + i * s.width);
      }
    });
  }

  // x = before + dropout(product + bias), h = norm(x), over rows; `of` says which row of `before` is added.
  template <class Of>
  void residual(int64_t rows, const float* before, Of of, const float* bias, const Dropout& drop, const Norm& next,
                float* x, Moments* moments, float* h) const {
    over(rows, [&](int64_t begin, int64_t end, int thread) {
      float* factor = own(thread);
      for (int64_t i = begin; i < end; ++i) {
        const float *from = before + of(i) * s.width, *added = room.product + i * s.width;
        float* to = x + i * s.width;
        if (drop.dropped) {
          drop.factors(i, s.width, factor);
          for (int64_t j = 0; j < s.width; ++j) to[j] = from[j] + factor[j] * (added[j] + bias[j]);
        } else {
          for (int64_t j = 0; j < s.width; ++j) to[j] = from[j] + (added[j] + bias[j]);
        }
        moments[i] = normalize(to, s.width, next, h + i * s.width);
      }
    });
  }

  // Queries, keys and values are h W + bias; the last block's queries are those of answers.
  void attend_all(int64_t layer) const {
    const Kept& k = room.blocks[layer];
    const Parts::Block& w = weights.block(layer);
    const int64_t width = s.width;
    if (layer + 1 < s.layers) {
      product(s.tokens(), 3 * width, width, plain(k.h, width), plain(w.attend, 3 * width), false, k.query, 3 * width);
    } else {
      for (int64_t i = 0; i < s.asked(); ++i)
        std::memcpy(k.asked + i * width, k.h + token_of(i) * width, static_cast<size_t>(width) * sizeof(float));
      product(s.asked(), width, width, plain(k.asked, width), plain(w.attend, 3 * width), false, k.query, width);
      product(s.tokens(), 2 * width, width, plain(k.h, width), plain(w.attend + width, 3 * width), false, k.key,
              2 * width);
    }
    const Dropout drop = dropout(layer, kOfAttention);
    over(s.rows, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t row = begin; row < end; ++row) {
        const Attention it = attention(layer, row, drop);
        float* query = k.query + row * it.queries * it.query_row;
        float* key = k.key + row * it.length * it.key_row;
        for (int64_t q = 0; q < it.queries; ++q) add(1.0f, w.attend_bias, width, query + q * it.query_row);
        for (int64_t t = 0; t < it.length; ++t) add(1.0f, w.attend_bias + width, 2 * width, key + t * it.key_row);
        attend(it, row, query, key, key + width, k.weights + row * it.heads * it.queries * it.length,
               k.mixed + row * it.queries * width, own(thread));
      }
    });
  }

  void block(int64_t layer) const {
    const Kept& k = room.blocks[layer];
    const Parts::Block& w = weights.block(layer);
    const bool is_last = layer + 1 == s.layers;
    const int64_t rows = s.of_block(layer), width = s.width, inner = s.inner;
    attend_all(layer);
    product(rows, width, width, plain(k.mixed, width), plain(w.out, width), false, room.product, width);
    const Norm second = norm(w.norm2, w.norm2_shift);
    const Dropout drop = dropout(layer, kAfterAttention);
    if (is_last)
      residual(rows, k.x, [&](int64_t i) { return token_of(i); }, w.out_bias, drop, second, k.x2, k.moments2, k.h2);
    else
      residual(rows, k.x, [](int64_t i) { return i; }, w.out_bias, drop, second, k.x2, k.moments2, k.h2);
    product(rows, inner, width, plain(k.h2, width), plain(w.up, inner), false, k.slope, inner);
    over(rows, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        float *slope = k.slope + i * inner, *active = k.active + i * inner;
        if (s.is_relu)
          for (int64_t j = 0; j < inner; ++j) active[j] = relu(slope[j] + w.up_bias[j], slope + j);
        else
          for (int64_t j = 0; j < inner; ++j) active[j] = gelu(slope[j] + w.up_bias[j], slope + j);
      }
    });
    product(rows, width, inner, plain(k.active, inner), plain(w.down, width), false, room.product, width);
    const Kept* next = is_last ? nullptr : &room.blocks[layer + 1];
    residual(rows, k.x2, [](int64_t i) { return i; }, w.down_bias, dropout(layer, kAfterMlp), norm_after(layer),
             next ? next->x : room.x, next ? next->moments : room.moments, next ? next->h : room.h);
  }
};

}  // namespace groklab
