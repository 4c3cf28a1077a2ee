// The loss, and the backward pass.
#pragma once
#include "forward.h"
#include "loss.h"

namespace groklab {

class Step : public Forward {
 public:
  // `adds`: to gradients that are there.
  Step(const Sizes& sizes, float** weights, float** gradients, float* memory, const Inputs& inputs, bool adds)
      : Forward(sizes, weights, memory, inputs), gradients{gradients, s}, adds(adds) {}

  // Writes or adds gradients, and returns the loss.
  double run() {
    if (!adds) clear();
    forward();
    const double loss = head();
    for (int64_t layer = s.layers - 1; layer >= 0; --layer) block_backward(layer);
    embed_backward();
    return loss;
  }

 private:
  const Parts gradients;
  const bool adds;

  // Gradients that are added up row by row begin at zero; those of matrices are written by their first product.
  void clear() const {
    const auto zero = [](float* at, int64_t count) { std::memset(at, 0, static_cast<size_t>(count) * sizeof(float)); };
    if (!s.is_tied) zero(gradients.word(), s.words * s.width);
    if (s.places) zero(gradients.place(), s.places * s.width);
    for (int64_t layer = 0; layer < s.layers; ++layer) {
      const Parts::Block& d = gradients.block(layer);
      for (float* at : {d.norm1, d.norm1_shift, d.out_bias, d.norm2, d.norm2_shift, d.down_bias}) zero(at, s.width);
      zero(d.attend_bias, 3 * s.width);
      zero(d.up_bias, s.inner);
    }
    zero(gradients.norm(), s.width);
    zero(gradients.norm_shift(), s.width);
  }

  // Logits, losses, and the gradients of the head and of the states before the last norm.
  double head() const {
    const int64_t asked = s.asked(), width = s.width;
    const Linear head = head_of(weights);
    head.forward(threads(), asked, room.h, room.logits);
    std::vector<double> losses(static_cast<size_t>(s.threads), 0.0);
    over(asked, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        losses[thread] += loss_of(s.is_stablemax, room.logits + i * s.words, s.words, in.labels[i], room.factors + i);
        room.factors[i] /= static_cast<float>(s.targets);
      }
    });
    head.backward(threads(), asked, room.logits, room.dh);
    over(asked, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < width; ++j) {
          room.h[i * width + j] *= room.factors[i];
          room.dh[i * width + j] *= room.factors[i];
        }
    });
    head_of(gradients).gradient(threads(), asked, room.h, room.logits, adds);
    std::memset(room.dx, 0, static_cast<size_t>(asked * width) * sizeof(float));
    norm_backward(asked, room.x, room.moments, weights.norm(), gradients.norm(), gradients.norm_shift(), nullptr,
                  nullptr);
    double loss = 0.0;
    for (double part : losses) loss += part;
    return loss / s.targets;
  }

  // dx += what comes through a norm from dh. Where there is a bias, dz = dropout(dx) and its sum: of what dx is then, or,
  // where the norm's reader stands beside what the bias belongs to, of what it was.
  void norm_backward(int64_t rows, const float* x, const Moments* moments, const float* scale, float* dscale,
                     float* dshift, const Dropout* drop, float* dbias) const {
    const int64_t width = s.width;
    room.sums.clear();
    over(rows, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        float *dx = room.dx + i * width, *dz = room.dz + i * width, *sum = room.sums.of(thread, 2);
        if (dbias && s.is_parallel) dropped(i, *drop, dx, dz, sum, own(thread));
        normalize_backward(room.dh + i * width, x + i * width, moments[i], scale, width, dx, room.sums.of(thread, 0),
                           room.sums.of(thread, 1));
        if (dbias && !s.is_parallel) dropped(i, *drop, dx, dz, sum, own(thread));
      }
    });
    room.sums.into(0, dscale, width);
    room.sums.into(1, dshift, width);
    if (dbias) room.sums.into(2, dbias, width);
  }

  void dropped(int64_t row, const Dropout& drop, const float* dx, float* dz, float* sum, float* factor) const {
    if (drop.dropped) {
      drop.factors(row, s.width, factor);
      for (int64_t j = 0; j < s.width; ++j) sum[j] += dz[j] = factor[j] * dx[j];
    } else {
      for (int64_t j = 0; j < s.width; ++j) sum[j] += dz[j] = dx[j];
    }
  }

  // From dx, the gradient of a block's output, to that of its input.
  void block_backward(int64_t layer) const {
    const Kept& k = room.blocks[layer];
    const Parts::Block &w = weights.block(layer), &d = gradients.block(layer);
    const int64_t rows = s.of_block(layer), width = s.width, inner = s.inner;
    const Dropout after_mlp = dropout(layer, kAfterMlp), after_attention = dropout(layer, kAfterAttention);
    room.sums.clear();
    over(rows, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i)
        dropped(i, after_mlp, room.dx + i * width, room.dz + i * width, room.sums.of(thread, 0), own(thread));
    });
    room.sums.into(0, d.down_bias, width);
    linear(d.down, inner, width).gradient(threads(), rows, k.active, room.dz, adds);
    linear(w.down, inner, width).backward(threads(), rows, room.dz, room.dinner);
    room.sums.clear();
    over(rows, [&](int64_t begin, int64_t end, int thread) {
      float* sum = room.sums.of(thread, 0);
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < inner; ++j) sum[j] += room.dinner[i * inner + j] *= k.slope[i * inner + j];
    });
    room.sums.into(0, d.up_bias, inner);
    linear(d.up, width, inner).gradient(threads(), rows, k.h2, room.dinner, adds);
    linear(w.up, width, inner).backward(threads(), rows, room.dinner, room.dh);
    norm_backward(rows, s.is_parallel ? k.before : k.x2, k.moments2, w.norm2, d.norm2, d.norm2_shift, &after_attention,
                  d.out_bias);
    linear(d.out, width, width).gradient(threads(), rows, k.mixed, room.dz, adds);
    linear(w.out, width, width).backward(threads(), rows, room.dz, room.dh);  // dmixed
    attend_all_backward(layer);
    if (layer + 1 == s.layers) spread();
    norm_backward(s.tokens(), k.x, k.moments, w.norm1, d.norm1, d.norm1_shift, nullptr, nullptr);
  }

  // From dh, the gradient of `mixed`, to that of h, in its place.
  void attend_all_backward(int64_t layer) const {
    const Kept& k = room.blocks[layer];
    const Parts::Block& d = gradients.block(layer);
    const bool is_last = layer + 1 == s.layers;
    const int64_t width = s.width, tokens = s.tokens(), asked = s.asked();
    float* dquery = room.dattend;
    float* dkey = dquery + (is_last ? asked * width : width);
    const Dropout drop = dropout(layer, kOfAttention);
    const Rotary turning = rotary();
    room.sums.clear();
    over(s.rows, [&](int64_t begin, int64_t end, int thread) {
      float* sum = room.sums.of(thread, 0);
      for (int64_t row = begin; row < end; ++row) {
        const Attention it = attention(layer, row, drop);
        const int64_t query = row * it.queries * it.query_row, key = row * it.length * it.key_row;
        const int64_t weight = it.heads * it.queries * it.length;
        for (int64_t q = 0; q < it.queries; ++q)
          std::memset(dquery + query + q * it.query_row, 0, static_cast<size_t>(width) * sizeof(float));
        for (int64_t t = 0; t < it.length; ++t)
          std::memset(dkey + key + t * it.key_row, 0, static_cast<size_t>(2 * width) * sizeof(float));
        attend_backward(it, row, k.query + query, k.key + key, k.key + key + width, k.weights + row * weight,
                        room.dh + row * it.queries * width, dquery + query, dkey + key, dkey + key + width,
                        own(thread), own(thread) + weight);
        for (int64_t q = 0; q < it.queries; ++q) {
          turning.turn(it.place(q), -1.0f, dquery + query + q * it.query_row);
          add(1.0f, dquery + query + q * it.query_row, width, sum);
        }
        for (int64_t t = 0; t < it.length; ++t) {
          turning.turn(t, -1.0f, dkey + key + t * it.key_row);
          add(1.0f, dkey + key + t * it.key_row, 2 * width, sum + width);
        }
      }
    });
    const Linear w = linear(k.attend, width, 3 * width);
    const Linear dw = linear(s.is_neox ? room.dsorted : d.attend, width, 3 * width);
    const bool adds_here = adds && !s.is_neox;
    if (!is_last) {
      dw.gradient(threads(), tokens, k.h, dquery, adds_here);
      w.backward(threads(), tokens, dquery, room.dh);
    } else {
      dw.outputs(0, width).gradient(threads(), asked, k.asked, dquery, adds_here);
      dw.outputs(width, 2 * width).gradient(threads(), tokens, k.h, dkey, adds_here);
      w.outputs(width, 2 * width).backward(threads(), tokens, dkey, room.dh);
      w.outputs(0, width).backward(threads(), asked, dquery, room.dz);
      for (int64_t i = 0; i < asked; ++i) add(1.0f, room.dz + i * width, width, room.dh + token_of(i) * width);
    }
    if (!s.is_neox) {
      room.sums.into(0, d.attend_bias, 3 * width);
      return;
    }
    std::memset(room.dsorted_bias, 0, static_cast<size_t>(3 * width) * sizeof(float));
    room.sums.into(0, room.dsorted_bias, 3 * width);
    unsort_heads(room.dsorted, s.heads, width / s.heads * width, adds, d.attend);
    unsort_heads(room.dsorted_bias, s.heads, width / s.heads, true, d.attend_bias);
  }

  // dx of answers to dx of all tokens.
  void spread() const {
    const int64_t width = s.width;
    std::memcpy(room.dx_asked, room.dx, static_cast<size_t>(s.asked() * width) * sizeof(float));
    std::memset(room.dx, 0, static_cast<size_t>(s.tokens() * width) * sizeof(float));
    for (int64_t i = 0; i < s.asked(); ++i) add(1.0f, room.dx_asked + i * width, width, room.dx + token_of(i) * width);
  }

  // Each thread adds up its own columns, so that the order of rows is the same for any number of threads.
  void embed_backward() const {
    const Dropout drop = embedding_dropout();
    const int64_t width = s.width;
    over(s.tokens(), [&](int64_t begin, int64_t end, int thread) {
      float* factor = own(thread);
      for (int64_t i = begin; drop.dropped && i < end; ++i) {
        drop.factors(i, width, factor);
        for (int64_t j = 0; j < width; ++j) room.dx[i * width + j] *= factor[j];
      }
    });
    over_rows(threads(), width, [&](int64_t left, int64_t right, int) {
      for (int64_t i = 0; i < s.tokens(); ++i) {
        const float* dx = room.dx + i * width + left;
        add(1.0f, dx, right - left, gradients.word() + in.tokens[i] * width + left);
        if (s.places) add(1.0f, dx, right - left, gradients.place() + i % s.length * width + left);
      }
    }, kLanes);
  }
};

}  // namespace groklab
