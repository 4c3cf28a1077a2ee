// The forward pass, which keeps what the backward pass needs.
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
  // x = dropout(word + place), h = norm(x); rotary positions come into queries and keys instead.
  void embed() const {
    const Dropout drop = embedding_dropout();
    const Kept& to = room.blocks[0];
    const Norm first = norm(weights.block(0).norm1, weights.block(0).norm1_shift);
    over(s.tokens(), [&](int64_t begin, int64_t end, int thread) {
      float* factor = own(thread);
      for (int64_t i = begin; i < end; ++i) {
        float* x = to.x + i * s.width;
        std::memcpy(x, weights.word() + in.tokens[i] * s.width, static_cast<size_t>(s.width) * sizeof(float));
        if (s.places) add(1.0f, weights.place() + i % s.length * s.width, s.width, x);
        if (drop.dropped) {
          drop.factors(i, s.width, factor);
          for (int64_t j = 0; j < s.width; ++j) x[j] *= factor[j];
        }
        to.moments[i] = normalize(x, s.width, first, to.h + i * s.width);
      }
    });
  }

  // x = before + dropout(product + bias), and h = norm(x), or norm(before) where what reads h stands `beside`.
  void residual(int64_t rows, const float* before, const float* bias, const Dropout& drop, const Norm& next,
                bool beside, float* x, Moments* moments, float* h) const {
    over(rows, [&](int64_t begin, int64_t end, int thread) {
      float* factor = own(thread);
      for (int64_t i = begin; i < end; ++i) {
        const float *from = before + i * s.width, *added = room.product + i * s.width;
        float* to = x + i * s.width;
        if (drop.dropped) {
          drop.factors(i, s.width, factor);
          for (int64_t j = 0; j < s.width; ++j) to[j] = from[j] + factor[j] * (added[j] + bias[j]);
        } else {
          for (int64_t j = 0; j < s.width; ++j) to[j] = from[j] + (added[j] + bias[j]);
        }
        moments[i] = normalize(beside ? from : to, s.width, next, h + i * s.width);
      }
    });
  }

  // Queries, keys and values are h W + bias; the last block's queries are those of answers.
  void attend_all(int64_t layer) const {
    const Kept& k = room.blocks[layer];
    const int64_t width = s.width;
    const Linear w = linear(k.attend, width, 3 * width);
    if (layer + 1 < s.layers) {
      w.forward(threads(), s.tokens(), k.h, k.query);
    } else {
      for (int64_t i = 0; i < s.asked(); ++i) {
        std::memcpy(k.asked + i * width, k.h + token_of(i) * width, static_cast<size_t>(width) * sizeof(float));
        std::memcpy(k.before + i * width, k.x + token_of(i) * width, static_cast<size_t>(width) * sizeof(float));
      }
      w.outputs(0, width).forward(threads(), s.asked(), k.asked, k.query);
      w.outputs(width, 2 * width).forward(threads(), s.tokens(), k.h, k.key);
    }
    const Dropout drop = dropout(layer, kOfAttention);
    const Rotary turning = rotary();
    over(s.rows, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t row = begin; row < end; ++row) {
        const Attention it = attention(layer, row, drop);
        float* query = k.query + row * it.queries * it.query_row;
        float* key = k.key + row * it.length * it.key_row;
        for (int64_t q = 0; q < it.queries; ++q) {
          add(1.0f, k.attend_bias, width, query + q * it.query_row);
          turning.turn(it.place(q), 1.0f, query + q * it.query_row);
        }
        for (int64_t t = 0; t < it.length; ++t) {
          add(1.0f, k.attend_bias + width, 2 * width, key + t * it.key_row);
          turning.turn(t, 1.0f, key + t * it.key_row);
        }
        attend(it, row, query, key, key + width, k.weights + row * it.heads * it.queries * it.length,
               k.mixed + row * it.queries * width, own(thread));
      }
    });
  }

  // active = f(slope + bias), and its derivative in place of `slope`.
  template <class Function>
  void activate(int64_t rows, const float* bias, const Kept& k, Function function) const {
    over(rows, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        float *slope = k.slope + i * s.inner, *active = k.active + i * s.inner;
        for (int64_t j = 0; j < s.inner; ++j) active[j] = function(slope[j] + bias[j], slope + j);
      }
    });
  }
  void activate(int64_t rows, const float* bias, const Kept& k) const {
    if (s.activation == kRelu)
      activate(rows, bias, k, [](float x, float* derivative) { return relu(x, derivative); });
    else if (s.activation == kGeluErf)
      activate(rows, bias, k, [](float x, float* derivative) { return gelu_erf(x, derivative); });
    else
      activate(rows, bias, k, [](float x, float* derivative) { return gelu_tanh(x, derivative); });
  }

  void block(int64_t layer) const {
    const Kept& k = room.blocks[layer];
    const Parts::Block& w = weights.block(layer);
    const int64_t rows = s.of_block(layer), width = s.width, inner = s.inner;
    attend_all(layer);
    linear(w.out, width, width).forward(threads(), rows, k.mixed, room.product);
    residual(rows, k.before, w.out_bias, dropout(layer, kAfterAttention), norm(w.norm2, w.norm2_shift),
             s.is_parallel != 0, k.x2, k.moments2, k.h2);
    linear(w.up, width, inner).forward(threads(), rows, k.h2, k.slope);
    activate(rows, w.up_bias, k);
    linear(w.down, inner, width).forward(threads(), rows, k.active, room.product);
    const Kept* next = layer + 1 < s.layers ? &room.blocks[layer + 1] : nullptr;
    residual(rows, k.x2, w.down_bias, dropout(layer, kAfterMlp), norm_after(layer), false, next ? next->x : room.x,
             next ? next->moments : room.moments, next ? next->h : room.h);
  }
};

}  // namespace groklab
