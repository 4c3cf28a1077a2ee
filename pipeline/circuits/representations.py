"""Whether a model multiplies the elements of a group by their representations, and which ones it has learned.

Chughtai, Chan & Nanda 2023, "A Toy Model of Universality" (arXiv 2302.03025), sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.circuits._irreps import Floats, Irreps
from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

ROWS = 2048  # prompts in a forward pass
ALL = ""  # in the place of a representation


@dataclass(frozen=True)
class Representations(Analysis):
    """Of a model of all products ab of a group: the shares of its parts that irreducible representations explain.

    For each irreducible real representation rho: `embedding` and `unembedding` are the shares of the power of W_E and
    W_U, as functions on the group, that its matrix entries span; `neurons a`, `neurons b` and `neurons ab` those of the
    variance of the last MLP's neurons over all pairs in the span of rho(a), rho(b), rho(ab); `logits` is the cosine of
    the logits with the character's values at a b c^-1, over all a, b and c, from each pair's logits less their mean,
    which the softmax ignores. Squares of it are shares of the logits' power.

    Representations with a cosine above `least` at the last step are key, the trivial one apart. In `restricted loss`
    the neurons' mean and their rho(ab) of key representations take the place of the neurons, on all pairs; in `excluded
    loss` all but these rho(ab), on trained pairs.
    """

    least: float = param(0.005, "cosine of logits and character that makes a key representation", gt=0, lt=1)

    def choose(self, source: Source) -> Pairs:
        prompts, answers, trained, product = source.products()
        # No prompt is corrupted here; the table stands in both places, moved by one row so that each pair differs.
        order = np.lexsort(prompts.T[::-1])
        prompts, answers = prompts[order], answers[order]
        notes = {"trained": trained[order].astype(np.int32), "order": np.full(len(prompts), len(product), np.int32)}
        return Pairs(prompts, np.roll(prompts, 1, axis=0), answers, np.roll(answers, 1, axis=0), notes)

    def fit(self, model: PreTrainedModel, pairs: Pairs) -> dict[str, Any]:
        """The key representations, found in the model of the last step."""
        import torch

        from pipeline.circuits.hooks import Hooks, evaluating

        table = ProductTable(pairs)
        with evaluating(model), torch.no_grad():
            logits, _ = table.outputs(Hooks(model))
        return {"key": self._keys(table.likeness(logits))}

    def _keys(self, likeness: dict[str, float]) -> list[str]:
        return [name for name, cosine in likeness.items() if cosine > self.least]

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        from pipeline.circuits._architectures import token_rows

        table = ProductTable(pairs)
        logits, neurons = table.outputs(hooks)
        likeness = table.likeness(logits)
        keys: Sequence[str] = shared["key"] if "key" in shared else self._keys(likeness)
        chosen = [irrep for irrep in table.group.irreps if irrep.name in keys]
        rows = [("logits", name, cosine) for name, cosine in likeness.items()]

        mean, key = neurons.mean(0), table.along_product(neurons, chosen)
        everything = np.ones(len(pairs), bool)
        losses = {"train": table.loss(logits, table.trained), "held-out": table.loss(logits, ~table.trained)}
        losses["restricted"] = table.loss(table.outputs(hooks, mean + key)[0], everything)
        losses["excluded"] = table.loss(table.outputs(hooks, neurons - key)[0], table.trained)
        rows += [(f"{name} loss", ALL, value) for name, value in losses.items()]

        embedding = token_rows(hooks.model.get_input_embeddings(), table.m)
        for name, rows_MD in {"embedding": embedding, "unembedding": hooks.head.weight[: table.m]}.items():
            power = rows_MD.cpu().double().numpy()
            rows += table.shares(name, power, float(np.square(power).sum()))
        variance = float(np.square(neurons - mean).sum())
        for name, means in table.means(neurons - mean).items():
            rows += table.shares(f"neurons {name}", means, variance / table.m)
        rows += [("key", name, 1.0) for name in keys]
        return {name: [row[i] for row in rows] for i, name in enumerate(("measure", "representation", "value"))}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.representations import draw_representations

        return draw_representations(table, marks)


class ProductTable:
    """All products ab of a group of m elements, as prompts in rows: their elements and right answers."""

    def __init__(self, pairs: Pairs):
        moves = [i for i in range(pairs.clean.shape[1]) if len(np.unique(pairs.clean[:, i])) > 1]
        self.prompts = pairs.clean
        self.m = int(pairs.notes["order"][0])
        self.a, self.b = (pairs.clean[:, i].astype(np.int64) for i in moves)
        self.answer = pairs.answers[:, 0].astype(np.int64)
        self.trained = pairs.notes["trained"].astype(bool)
        product = np.zeros((self.m, self.m), np.int64)
        product[self.a, self.b] = self.answer
        self.group = Irreps(product)

    def outputs(self, hooks: Hooks, neurons: Floats | None = None) -> tuple[Floats, Floats]:
        """Logits (N, V) and the last MLP's neurons (N, M) at the end of all prompts; with other neurons where given."""
        import torch

        point = f"blocks.{hooks.n_layer - 1}.mlp.hook_post"
        logits, found = [], []

        def visit(start: int, value: Tensor) -> Tensor | None:
            found.append(value[:, -1].cpu().double())
            if neurons is None:
                return None
            other = torch.from_numpy(neurons[start : start + len(value)]).to(value)
            return torch.cat([value[:, :-1], other[:, None]], 1)

        for start in range(0, len(self.prompts), ROWS):
            tokens = torch.from_numpy(self.prompts[start : start + ROWS]).long().to(hooks.model.device)
            with torch.no_grad(), hooks.at({point: partial(visit, start)}):
                logits.append(hooks.run(tokens, logits_to_keep=1)[:, -1].cpu().double())
        return torch.cat(logits).numpy(), torch.cat(found).numpy()

    def likeness(self, logits: Floats) -> dict[str, float]:
        """The cosine of the logits and the character at a b c^-1, by the name of a representation but the trivial."""
        over_elements = logits[:, : self.m] - logits[:, : self.m].mean(1, keepdims=True)
        norm = max(float(np.linalg.norm(over_elements)), 1e-300)
        sums = np.zeros((self.m, self.m))
        np.add.at(sums, self.answer, over_elements)
        found = {}
        for irrep in self.group.irreps[1:]:
            values = irrep.character[self.group.quotient]  # which stand m times among all a, b and c
            found[irrep.name] = float((values * sums).sum() / (norm * self.m**0.5 * np.linalg.norm(values)))
        return found

    def means(self, values: Floats) -> dict[str, Floats]:
        """Means over the pairs with the same a, b, and ab, (m, M) each."""
        found = {}
        for name, element in {"a": self.a, "b": self.b, "ab": self.answer}.items():
            found[name] = np.zeros((self.m, values.shape[1]))
            np.add.at(found[name], element, values / self.m)
        return found

    def along_product(self, neurons: Floats, irreps: Sequence[Any]) -> Floats:
        """The part of neurons (N, M) in the span of rho(ab), of all these representations."""
        means = self.means(neurons)["ab"]
        parts = [self.group.project(irrep, means) for irrep in irreps]
        return np.sum([*parts, np.zeros_like(means)], axis=0)[self.answer]

    def shares(self, measure: str, values: Floats, total: float) -> list[tuple[str, str, float]]:
        """The share of a total that the part of functions on the group (m, M) has in each representation's span."""
        parts = {irrep.name: self.group.project(irrep, values) for irrep in self.group.irreps}
        return [(measure, name, float(np.square(part).sum()) / max(total, 1e-300)) for name, part in parts.items()]

    def loss(self, logits: Floats, chosen: Any) -> float:
        """Mean cross-entropy of chosen pairs."""
        top = logits.max(1)
        of_answer = logits[np.arange(len(logits)), self.answer]
        return float((np.log(np.exp(logits - top[:, None]).sum(1)) + top - of_answer)[chosen].mean())
