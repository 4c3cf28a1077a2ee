"""Small random models of every kind whose insides are known, and pairs of random tokens for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.circuits.base import Pairs
from pipeline.config.registry import load

VOCABULARY = 24
# name -> architecture, and parameters beside the sizes
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "neox-parallel": ("pythia", {}),
    "neox-sequential": ("pythia", {"parallel_residual": False}),
    "looped": ("gpt2_looped", {}),
    "bare": ("gpt2_bare", {}),
    "shifted": ("gpt2_kv_shift", {}),
    "relu": ("gpt2_relu_attention", {}),
    "factorized": ("gpt2_factorized", {"rank": 20}),
}


def random_model(kind: str, n_layer: int = 2, seed: int = 0, n_embd: int = 32, n_positions: int = 12) -> Any:
    """A model in eval mode with large weights, and with biases and norms that are not those of a fresh one."""
    torch.manual_seed(seed)
    architecture, more = KINDS[kind]
    sizes: dict[str, Any] = {"n_layer": n_layer, "n_embd": n_embd, "n_head": 4, "n_positions": n_positions}
    kind_of_model: Any = load("models", architecture, "model")
    if "initializer_range" not in kind_of_model.unused:
        sizes["initializer_range"] = 0.2
    model: Any = kind_of_model(**sizes, **more).build(VOCABULARY).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1 and weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    return model


def random_pairs(n: int = 6, length: int = 7, position: int = 3, seed: int = 0) -> Pairs:
    """Pairs that differ at one position."""
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, VOCABULARY, (n, length)).astype(np.int32)
    corrupted = clean.copy()
    corrupted[:, position] = (clean[:, position] + rng.integers(1, VOCABULARY, n)) % VOCABULARY
    answers = rng.integers(0, 12, (n, 1)).astype(np.int32)
    return Pairs(clean, corrupted, answers, answers + 12)


def tokens_of(ids: Any) -> torch.Tensor:
    return torch.from_numpy(ids).long()
