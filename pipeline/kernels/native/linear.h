// Weights of a linear layer y = x W: W is (in, out) as GPT-2 has it, or turned, (out, in), as torch's nn.Linear does.
#pragma once
#include <cstdint>

#include "products.h"

namespace groklab {

struct Linear {
  float* at;
  int64_t in, out;
  bool is_turned;
  int64_t row;  // numbers from a row of the matrix to the next

  static Linear of(float* at, int64_t in, int64_t out, bool is_turned) {
    return {at, in, out, is_turned, is_turned ? in : out};
  }
  // The weights of `count` outputs from the `first` on.
  Linear outputs(int64_t first, int64_t count) const {
    return {at + (is_turned ? first * row : first), in, count, is_turned, row};
  }

  // y = x W, for x (rows, in) and y (rows, out).
  void forward(int threads, int64_t rows, const float* x, float* y) const {
    multiply(threads, rows, out, in, plain(x, in), is_turned ? turned(at, row) : plain(at, row), false, y, out);
  }
  // dx = dy W^T
  void backward(int threads, int64_t rows, const float* dy, float* dx) const {
    multiply(threads, rows, in, out, plain(dy, out), is_turned ? plain(at, row) : turned(at, row), false, dx, in);
  }
  // Of the gradient, which lies as the weights do: dW = x^T dy, or dW += x^T dy.
  void gradient(int threads, int64_t rows, const float* x, const float* dy, bool adds) const {
    if (is_turned)
      multiply(threads, out, in, rows, turned(dy, out), plain(x, in), adds, at, row);
    else
      multiply(threads, in, out, rows, turned(x, in), plain(dy, out), adds, at, row);
  }
};

}  // namespace groklab
