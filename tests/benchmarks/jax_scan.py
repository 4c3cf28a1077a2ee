"""A rival of the training step in JAX: GPT-2, and fifty updates as one compiled scan (extra `rivals`).

What is computed is what `EagerLoop` computes, by the ways that this package has: the last block beyond its keys and
values, and logits, are computed at the answers alone; attention over a few tokens is written as sums, which XLA fuses;
a mask takes 16 random bits a value, from the quickest of JAX's generators.
"""

from __future__ import annotations

import functools
import os
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")  # one thread

import jax
import jax.numpy as jnp
import numpy as np
from baselines import Setting

UPDATES = 50  # in a scan
RATE, DECAY, BETAS, EPSILON = 1e-4, 0.1, (0.9, 0.999), 1e-8
Weights = dict[str, Any]


class JaxScan:
    """Updates by JAX. `dropout` is the rate of all dropout."""

    def __init__(self, setting: Setting, dropout: float = 0.1):
        assert setting.size.model == "gpt2"
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_default_prng_impl", "rbg")
        self.setting = setting
        weights = {
            name.removeprefix("transformer."): jnp.array(weight.detach().numpy())
            for name, weight in setting.model(setting.vocabulary).named_parameters()
        }
        means, squares = ({name: jnp.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
        self.state = weights, means, squares, jnp.zeros((), jnp.int32), jax.random.key(0)
        rows, count = setting.rows, setting.rows.shape.answer
        places = rows.prompt_N[:, None].numpy() - 1 + np.arange(count)
        tokens = rows.tokens_NT.numpy()
        self.table = (
            jnp.asarray(tokens[:, :-1]),
            jnp.asarray(places),
            jnp.asarray(np.take_along_axis(tokens, places + 1, 1)),
        )
        size = setting.size
        forward = functools.partial(_loss, layers=size.layers, heads=size.heads, dropout=dropout)
        self.updates = jax.jit(functools.partial(_updates, forward), donate_argnums=0)
        self.draws = np.random.default_rng(0)

    def run(self, order_SB: np.ndarray) -> Any:
        """Makes an update of each row of indices; their losses."""
        self.state, losses_S = self.updates(self.state, self.table, jnp.asarray(order_SB))
        return jax.block_until_ready(losses_S)

    def window(self, steps: int) -> float:
        scans = -(-steps // UPDATES)
        count = len(self.table[0])
        started = self.setting.now()
        for _ in range(scans):
            # Without replacement within an update, as with an order of all rows.
            self.run(
                np.stack([self.draws.choice(count, self.setting.size.batch, replace=False) for _ in range(UPDATES)])
            )
        return (self.setting.now() - started) / (scans * UPDATES)


def _updates(forward: Any, state: Any, table: Any, order_SB: Any) -> Any:
    def update(state: Any, chosen_B: Any) -> Any:
        weights, means, squares, step, key = state
        key, own = jax.random.split(key)
        loss, gradients = jax.value_and_grad(forward)(weights, *(part[chosen_B] for part in table), own)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in gradients.values()))
        clip, step = jnp.minimum(1.0, 1.0 / (norm + 1e-6)), step + 1
        new: tuple[Weights, Weights, Weights] = ({}, {}, {})
        for name, weight in weights.items():
            g = clip * gradients[name]
            m = BETAS[0] * means[name] + (1 - BETAS[0]) * g
            v = BETAS[1] * squares[name] + (1 - BETAS[1]) * g * g
            root = jnp.sqrt(v / (1 - BETAS[1] ** step)) + EPSILON
            new[0][name] = weight * (1 - RATE * DECAY) - RATE / (1 - BETAS[0] ** step) * m / root
            new[1][name], new[2][name] = m, v
        return (*new, step, key), loss

    return jax.lax.scan(update, state, order_SB)


def _loss(w: Weights, tokens_BL: Any, places_BA: Any, labels_BA: Any, key: Any, *, layers: int, heads: int,
          dropout: float) -> Any:  # fmt: skip
    keys = iter(jax.random.split(key, 3 * layers + 1))

    def drop(x: Any) -> Any:
        own = next(keys)
        if not dropout:
            return x
        bound = round(dropout * 65536)
        return jnp.where(jax.random.bits(own, x.shape, jnp.uint16) >= bound, x * (65536 / (65536 - bound)), 0.0)

    def linear(name: str, x: Any) -> Any:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    length, at_answers = tokens_BL.shape[1], places_BA[..., None]
    x = drop(w["wte.weight"][tokens_BL] + w["wpe.weight"][:length])
    places = jnp.arange(length)[None]
    for layer in range(layers):
        name, is_last = f"h.{layer}", layer + 1 == layers
        h = norm(f"{name}.ln_1", x)
        matrix, bias = (jnp.split(w[f"{name}.attn.c_attn.{part}"], 3, -1) for part in ("weight", "bias"))
        if is_last:
            x, places = jnp.take_along_axis(x, at_answers, 1), places_BA
        asked = jnp.take_along_axis(h, at_answers, 1) if is_last else h
        query, key_, value = (
            (part @ matrix[i] + bias[i]).reshape(*part.shape[:2], heads, -1) for i, part in enumerate((asked, h, h))
        )
        score_BQKH = (query[:, :, None] * key_[:, None]).sum(-1) / query.shape[-1] ** 0.5
        seen_BQK = jnp.arange(length) <= places[..., None]
        share_BQKH = drop(jax.nn.softmax(jnp.where(seen_BQK[..., None], score_BQKH, -jnp.inf), 2))
        mixed = (share_BQKH[..., None] * value[:, None]).sum(2).reshape(x.shape)
        x = x + drop(linear(f"{name}.attn.c_proj", mixed))
        inner = jax.nn.gelu(linear(f"{name}.mlp.c_fc", norm(f"{name}.ln_2", x)), approximate=True)
        x = x + drop(linear(f"{name}.mlp.c_proj", inner))
    logits_BAV = norm("ln_f", x) @ w["wte.weight"].T
    chosen_BA = jnp.take_along_axis(logits_BAV, labels_BA[..., None], 2)[..., 0]
    return (jax.nn.logsumexp(logits_BAV, 2) - chosen_BA).mean()
