"""Whether a model adds modulo n by rotation, and how far it has come: Fourier components, restricted and excluded loss.

Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability" (arXiv 2301.05217), sections 4, 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

Floats = npt.NDArray[np.float64]
NO_FREQUENCY = -1


@dataclass(frozen=True)
class Fourier(Analysis):
    """Of a model of a+b or a-b modulo n, on the whole table: what its embedding, neurons and logits are made of.

    A frequency's `logits` is the share of the logits' variance that lies along cos(w c) and sin(w c), where c is the
    true answer and w = 2 pi k / n; `embedding` and `neurons` are its share of the power of the token embedding, and of
    the variance of the neurons whose own best frequency it is; `neurons explained` is how much of all neurons' variance
    lies at their best frequencies. Key frequencies are those that have at least `least` of the logits' variance at the
    last step; the paper names them by the peaks of the embedding and the neurons' best frequencies, which come out as
    the same where the model has generalized. `restricted loss` is that of the logits' mean and key components alone,
    on all pairs; `excluded loss` that of everything but them, on trained pairs. `gini` is the inequality of the norms
    of the Fourier components of the embedding, and of the map from neurons to logits.
    """

    least: float = param(0.02, "share of the logits' variance that makes a key frequency", gt=0, lt=1)

    def choose(self, source: Source) -> Pairs:
        prompts, answers, trained, n = source.table()
        # No prompt is corrupted here; the table stands in both places, moved by one row so that each pair differs.
        order = np.lexsort(prompts.T[::-1])
        prompts, answers, trained = prompts[order], answers[order], trained[order]
        notes = {"trained": trained.astype(np.int32), "modulus": np.full(len(prompts), n, np.int32)}
        return Pairs(prompts, np.roll(prompts, 1, axis=0), answers, np.roll(answers, 1, axis=0), notes)

    def fit(self, model: PreTrainedModel, pairs: Pairs) -> dict[str, Any]:
        """The key frequencies, found in the model of the last step."""
        import torch

        from pipeline.circuits.hooks import Hooks, evaluating

        with evaluating(model), torch.no_grad():
            logits, _ = _outputs(Hooks(model), pairs)
        return {"frequencies": self._keys(_logit_shares(logits, pairs))}

    def _keys(self, shares: Floats) -> list[int]:
        """The frequencies with enough of the logits' variance, from the share of each."""
        return [k for k, share in enumerate(shares, 1) if share >= self.least]

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        import torch
        from torch.nn import functional as F

        from pipeline.circuits._architectures import gain, linear_weight, token_rows

        n, answer = int(pairs.notes["modulus"][0]), torch.from_numpy(pairs.answers[:, 0]).long()
        trained = torch.from_numpy(pairs.notes["trained"]).bool()
        logits, neurons = _outputs(hooks, pairs)
        at_logits = _logit_shares(logits, pairs)
        keys: Sequence[int] = shared["frequencies"] if "frequencies" in shared else self._keys(at_logits)
        rows: list[tuple[str, int, float]] = []

        def loss(of: Tensor, chosen: Tensor) -> float:
            return float(F.cross_entropy(of[chosen], answer[chosen]))

        everything = torch.ones_like(trained)
        parts = {k: _along(logits, _waves(answer, n, [k])) for k in keys}
        key = torch.stack([*parts.values(), torch.zeros_like(logits)]).sum(0)
        losses = {"train": loss(logits, trained), "held-out": loss(logits, ~trained)}
        losses |= {"restricted": loss(logits.mean(0) + key, everything), "excluded": loss(logits - key, trained)}
        rows += [(f"{name} loss", NO_FREQUENCY, value) for name, value in losses.items()]
        rows += [("excluded loss of one", k, loss(logits - part, trained)) for k, part in parts.items()]
        embedding = token_rows(hooks.model.get_input_embeddings(), n).cpu().double()
        norm = gain(hooks.final_norm)
        out = hooks.head.weight[:n] if norm is None else hooks.head.weight[:n] * norm
        to_logits = out @ linear_weight(hooks.part(hooks.n_layer - 1, "mlp_out"))
        for name, table in {"embedding": embedding, "unembedding": to_logits.cpu().double()}.items():
            components = (_waves(torch.arange(n), n, range(1, n // 2 + 1)).T @ table).norm(dim=1).numpy()
            rows.append((f"gini {name}", NO_FREQUENCY, gini(components)))
            power = _by_frequency(components**2, n)
            rows += [(name, k, float(share)) for k, share in enumerate(power / max(power.sum(), 1e-300), 1)]
        rows += [("logits", k, float(share)) for k, share in enumerate(at_logits, 1)]
        shares, explained = _neuron_shares(neurons, pairs)
        rows += [("neurons", k, float(share)) for k, share in enumerate(shares, 1)]
        rows.append(("neurons explained", NO_FREQUENCY, explained))
        rows += [("key", k, 1.0) for k in keys]
        return {name: [row[i] for row in rows] for i, name in enumerate(("measure", "frequency", "value"))}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.measures import draw_progress

        return draw_progress(table, marks)


def gini(values: Floats) -> float:
    """The Gini coefficient of values that are not negative: 0 where all are equal, near 1 where one has everything."""
    ordered = np.sort(values)
    n, total = len(ordered), ordered.sum()
    return float(2 * (np.arange(1, n + 1) * ordered).sum() / (n * total) - (n + 1) / n) if total > 0 else 0.0


def _outputs(hooks: Hooks, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Logits (N, V) and the last block's neurons (N, M) at the end of all prompts, in float64 on the CPU."""
    import torch

    point, logits, neurons = f"blocks.{hooks.n_layer - 1}.mlp.hook_post", [], []
    for start in range(0, len(pairs), 2048):
        tokens = torch.from_numpy(pairs.clean[start : start + 2048]).long().to(hooks.model.device)
        out, found = hooks.read(tokens, [point], logits_to_keep=1)
        logits.append(out[:, -1].cpu().double())
        neurons.append(found[point][:, -1].cpu().double())
    return torch.cat(logits), torch.cat(neurons)


def _waves(at: Tensor, n: int, frequencies: Any) -> Tensor:
    """cos(w x) and sin(w x) side by side for each frequency, (N, 2F), of norm 1 over the rows; or 0 where it is 0."""
    import torch

    angles = 2 * torch.pi / n * at.cpu().double()[:, None] * torch.tensor([*frequencies], dtype=torch.float64)
    waves = torch.stack([angles.cos(), angles.sin()], -1).flatten(1)
    norms = waves.norm(dim=0)
    return torch.where(norms > 1e-6, waves / norms.clamp(min=1e-6), 0.0)


def _along(values: Tensor, waves: Tensor) -> Tensor:
    """The part of values (N, V) along waves (N, F)."""
    return waves @ (waves.T @ values)


def _by_frequency(components: Floats, n: int) -> Floats:
    """The sums over cosine and sine, (n // 2,)."""
    return components.reshape(n // 2, 2).sum(axis=1)


def _logit_shares(logits: Tensor, pairs: Pairs) -> Floats:
    """The share of the logits' variance along each frequency of the true answer, (n // 2,)."""
    import torch

    n = int(pairs.notes["modulus"][0])
    centred = logits - logits.mean(0)
    waves = _waves(torch.from_numpy(pairs.answers[:, 0]), n, range(1, n // 2 + 1))
    components = (waves.T @ centred).square().sum(1).numpy()
    return _by_frequency(components, n) / max(float(centred.square().sum()), 1e-300)


def _neuron_shares(neurons: Tensor, pairs: Pairs) -> tuple[Floats, float]:
    """For each frequency the share of all neurons' variance that those have whose best frequency it is, (n // 2,).

    And the share of all neurons' variance that their best frequencies explain.

    A neuron's best frequency is that whose products of {1, cos, sin} of a with {1, cos, sin} of b explain most of it.
    """
    import torch

    n = int(pairs.notes["modulus"][0])
    moves = [i for i in range(pairs.clean.shape[1]) if len(np.unique(pairs.clean[:, i])) > 1]
    a, b = (torch.from_numpy(pairs.clean[:, i]) for i in moves)
    grid = torch.zeros(n, n, neurons.shape[1], dtype=torch.float64)
    grid[a, b] = neurons - neurons.mean(0)
    constant = torch.full((n, 1), n**-0.5, dtype=torch.float64)
    basis = torch.cat([constant, _waves(torch.arange(n), n, range(1, n // 2 + 1))], 1)
    along_a = torch.einsum("ax,abm->xbm", basis, grid)
    explained = []
    for k in range(1, n // 2 + 1):  # only products of a frequency's own waves are looked at
        chosen = [0, 2 * k - 1, 2 * k]
        explained.append(torch.einsum("xbm,by->xym", along_a[chosen], basis[:, chosen]).square().sum((0, 1)))
    most, best = torch.stack(explained).max(0)
    variance = grid.square().sum((0, 1))
    shares = torch.zeros(n // 2, dtype=torch.float64).index_add_(0, best, variance)
    every = variance.sum().clamp(min=1e-300)
    return (shares / every).numpy(), float(most.sum() / every)
