// The loss, and the backward pass of GPT-2.
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
    zero(gradients.place(), s.places * s.width);
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
    const float* head = weights.head();
    product(asked, s.words, width, plain(room.h, width), turned(head, width), false, room.logits, s.words);
    std::vector<double> losses(static_cast<size_t>(s.threads), 0.0);
    over(asked, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        losses[thread] += loss_of(s.is_stablemax, room.logits + i * s.words, s.words, in.labels[i], room.factors + i);
        room.factors[i] /= static_cast<float>(s.targets);
      }
    });
    product(asked, width, s.words, plain(room.logits, s.words), plain(head, width), false, room.dh, width);
    over(asked, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < width; ++j) {
          room.h[i * width + j] *= room.factors[i];
          room.dh[i * width + j] *= room.factors[i];
        }
    });
    product(s.words, width, asked, turned(room.logits, s.words), plain(room.h, width), adds, gradients.head(), width);
    std::memset(room.dx, 0, static_cast<size_t>(asked * width) * sizeof(float));
    norm_backward(asked, room.x, room.moments, weights.norm(), gradients.norm(), gradients.norm_shift(), nullptr,
                  nullptr);
    double loss = 0.0;
    for (double part : losses) loss += part;
    return loss / s.targets;
  }

  // dx += what comes through a norm from dh; then dz = dropout(dx) and its sum for a bias, where there is one.
  void norm_backward(int64_t rows, const float* x, const Moments* moments, const float* scale, float* dscale,
                     float* dshift, const Dropout* drop, float* dbias) const {
    const int64_t width = s.width;
    room.sums.clear();
    over(rows, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        normalize_backward(room.dh + i * width, x + i * width, moments[i], scale, width, room.dx + i * width,
                           room.sums.of(thread, 0), room.sums.of(thread, 1));
        if (dbias) dropped(i, *drop, room.dx + i * width, room.dz + i * width, room.sums.of(thread, 2), own(thread));
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
    product(inner, width, rows, turned(k.active, inner), plain(room.dz, width), adds, d.down, width);
    product(rows, inner, width, plain(room.dz, width), turned(w.down, width), false, room.dinner, inner);
    room.sums.clear();
    over(rows, [&](int64_t begin, int64_t end, int thread) {
      float* sum = room.sums.of(thread, 0);
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < inner; ++j) sum[j] += room.dinner[i * inner + j] *= k.slope[i * inner + j];
    });
    room.sums.into(0, d.up_bias, inner);
    product(width, inner, rows, turned(k.h2, width), plain(room.dinner, inner), adds, d.up, inner);
    product(rows, width, inner, plain(room.dinner, inner), turned(w.up, inner), false, room.dh, width);
    norm_backward(rows, k.x2, k.moments2, w.norm2, d.norm2, d.norm2_shift, &after_attention, d.out_bias);
    product(width, width, rows, turned(k.mixed, width), plain(room.dz, width), adds, d.out, width);
    product(rows, width, width, plain(room.dz, width), turned(w.out, width), false, room.dh, width);  // dmixed
    attend_all_backward(layer);
    if (layer + 1 == s.layers) spread();
    norm_backward(s.tokens(), k.x, k.moments, w.norm1, d.norm1, d.norm1_shift, nullptr, nullptr);
  }

  // From dh, the gradient of `mixed`, to that of h, in its place.
  void attend_all_backward(int64_t layer) const {
    const Kept& k = room.blocks[layer];
    const Parts::Block &w = weights.block(layer), &d = gradients.block(layer);
    const bool is_last = layer + 1 == s.layers;
    const int64_t width = s.width, tokens = s.tokens(), asked = s.asked();
    float* dquery = room.dattend;
    float* dkey = dquery + (is_last ? asked * width : width);
    const Dropout drop = dropout(layer, kOfAttention);
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
        for (int64_t q = 0; q < it.queries; ++q) add(1.0f, dquery + query + q * it.query_row, width, sum);
        for (int64_t t = 0; t < it.length; ++t) add(1.0f, dkey + key + t * it.key_row, 2 * width, sum + width);
      }
    });
    room.sums.into(0, d.attend_bias, 3 * width);
    if (!is_last) {
      product(width, 3 * width, tokens, turned(k.h, width), plain(dquery, 3 * width), adds, d.attend, 3 * width);
      product(tokens, width, 3 * width, plain(dquery, 3 * width), turned(w.attend, 3 * width), false, room.dh, width);
      return;
    }
    product(width, width, asked, turned(k.asked, width), plain(dquery, width), adds, d.attend, 3 * width);
    product(width, 2 * width, tokens, turned(k.h, width), plain(dkey, 2 * width), adds, d.attend + width, 3 * width);
    product(tokens, width, 2 * width, plain(dkey, 2 * width), turned(w.attend + width, 3 * width), false, room.dh,
            width);
    product(asked, width, width, plain(dquery, width), turned(w.attend, 3 * width), false, room.dz, width);
    for (int64_t i = 0; i < asked; ++i) add(1.0f, room.dz + i * width, width, room.dh + token_of(i) * width);
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
    over_rows(static_cast<int>(s.threads), width, [&](int64_t left, int64_t right, int) {
      for (int64_t i = 0; i < s.tokens(); ++i) {
        const float* dx = room.dx + i * width + left;
        add(1.0f, dx, right - left, gradients.word() + in.tokens[i] * width + left);
        add(1.0f, dx, right - left, gradients.place() + i % s.length * width + left);
      }
    }, kLanes);
  }
};

}  // namespace groklab
