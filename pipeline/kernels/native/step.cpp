// What Python calls: gradients of a batch, their norm, and AdamW.
#include <cmath>

#include "adamw.h"
#include "backward.h"

extern "C" {

// Numbers of float32 that `groklab_gradients` needs for a batch.
int64_t groklab_room(const groklab::Sizes* sizes) { return groklab::Room(*sizes, nullptr, nullptr).used; }

// Writes the gradients of a batch, or adds them; the loss in `loss`. Returns 1 for a token, label or position that the
// model does not have, else 0.
int groklab_gradients(const groklab::Sizes* sizes, float** weights, float** gradients, float* memory,
                      const int64_t* tokens, const int64_t* positions, const int64_t* labels, const float* rotation,
                      int adds, float* loss) {
  const auto is_below = [](int64_t number, int64_t bound) { return number >= 0 && number < bound; };
  for (int64_t i = 0; i < sizes->tokens(); ++i)
    if (!is_below(tokens[i], sizes->words)) return 1;
  for (int64_t i = 0; i < sizes->asked(); ++i)
    if (!is_below(positions[i], sizes->length) ||
        (labels[i] != groklab::kIgnored && !is_below(labels[i], sizes->words)))
      return 1;
  *loss = static_cast<float>(
      groklab::Step(*sizes, weights, gradients, memory, {tokens, positions, labels, rotation}, adds != 0).run());
  return 0;
}

// The factors of dropout of a row, to look at.
void groklab_factors(uint64_t key, uint64_t site, int64_t dropped, int64_t row, int64_t count, float* factors) {
  groklab::Dropout::of(key, site, static_cast<uint32_t>(dropped)).factors(row, count, factors);
}

// The norm of all gradients together.
float groklab_norm(int64_t count, const float* gradients) {
  return static_cast<float>(std::sqrt(groklab::squares(gradients, count)));
}

// A step of AdamW over some tensors, whose gradients are multiplied by `clip`; their own counts of steps go up by one.
void groklab_adamw(const groklab::AdamW* it, int threads, int64_t tensors, const int64_t* counts, float** weights,
                   float** gradients, float** means, float** squares, float** steps, float clip) {
  for (int64_t i = 0; i < tensors; ++i) {
    *steps[i] += 1.0f;
    groklab::over_rows(threads, counts[i], [&](int64_t begin, int64_t end, int) {
      groklab::adamw(*it, *steps[i], clip, end - begin, weights[i] + begin, gradients[i] + begin, means[i] + begin,
                     squares[i] + begin);
    }, 4096);
  }
}
}
