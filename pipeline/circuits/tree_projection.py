"""How well a model's states of parts of a sentence are explained by a tree, and by which.

Murty et al. 2023, "Grokking of Hierarchical Structure in Vanilla Transformers" (arXiv 2305.18741), section 5 and
appendix C.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.corpora.base import Span
from pipeline.plots.base import Drawing
from pipeline.utils.errors import MismatchError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TreeProjection(Analysis):
    """Projects a model onto trees: parts of a sentence whose states hardly depend on the words around them.

    The state of a part is the sum of its words' last states, after the final norm. `c` is its cosine with the state of
    the same words where they see the first token and each other alone, in every layer. From the whole sentence down,
    each part is split where the sum of c of both sides is largest. `t score` is the sum, over the splits of a sentence,
    of how much this is above its mean over all splits of the part, which is what many random splits come to (the
    authors' code draws one); `t score of trees` is the sum of c over the tree above its mean over all binary trees, as
    in the paper. `parseval` is the F1 of the tree's parts of several words against the corpus's, and `right branching`
    that of the tree whose left sides are single words, the whole counted in both. `sparsity` is minus the mean entropy
    of attention, in nats, over layers, heads and words.
    """

    split: str = param("train", "split that the sentences are taken from")
    pairs: int = param(300, "most sentences", ge=1)

    tiny_values: ClassVar[Mapping[str, Any]] = {"pairs": 12}

    def choose(self, source: Source) -> Pairs:
        return source.trees(self.split, self.pairs, self.seed)

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        super().check(model, pairs)
        if "spans" not in pairs.metadata:
            raise MismatchError("TreeProjection looks at sentences after a first token, and the prompts are none")

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        sums = {"t score": 0.0, "t score of trees": 0.0}
        found, right, gold, hit, hit_right = 0, 0, 0, 0, 0
        entropy, words = 0.0, 0
        for rows, chart_NTT, entropy_N in charts(hooks, pairs):
            entropy += float(entropy_N.sum())
            words += len(rows) * chart_NTT.shape[1]
            for name, score_N in scores(chart_NTT).items():
                sums[name] += float(score_N.sum())
            for row, chart_TT in zip(rows, chart_NTT):
                known = {tuple(span) for span in json.loads(pairs.metadata["spans"][row])}
                if known:
                    size = len(chart_TT)
                    ours, branching = set(tree(chart_TT)), {(first, size - 1) for first in range(size - 1)}
                    found, right, gold = found + len(ours), right + len(branching), gold + len(known)
                    hit, hit_right = hit + len(ours & known), hit_right + len(branching & known)
        values = {name: total / len(pairs) for name, total in sums.items()}
        values["parseval"] = 2 * hit / (found + gold) if gold else float("nan")
        values["right branching"] = 2 * hit_right / (right + gold) if gold else float("nan")
        values["sparsity"] = -entropy / words
        return {"measure": list(values), "value": list(values.values())}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.tree_projection import draw_tree_projection

        return draw_tree_projection(table, marks)


def charts(hooks: Hooks, pairs: Pairs) -> Iterator[tuple[list[int], Floats, Floats]]:
    """Numbers of sentences of one length T, c of each of their parts (n, T, T), and their words' entropy, (n,).

    In a causal model a word sees nothing of what comes after it, so that the states of all parts that begin at a word
    come of one pass, in which nothing between the first token and that word is seen.
    """
    import torch

    from pipeline.circuits._batch import FLOATS

    for length in sorted(set(pairs.lengths.tolist())):
        size = length - 1
        if size < 2:
            continue
        every = np.flatnonzero(pairs.lengths == length).tolist()
        most = max(FLOATS // (4 * size * length * (hooks.n_head * length + 8 * hooks.d_model)), 1)
        for start in range(0, len(every), most):
            rows = every[start : start + most]
            tokens = torch.from_numpy(pairs.clean[rows, :length]).long().to(hooks.model.device)
            states, entropy_N = _states(hooks, tokens)
            sums = [states[:, begin, begin:].cumsum(1) for begin in range(size)]
            whole = states[:, 0].cumsum(1)
            chart = np.zeros((len(rows), size, size))
            for begin, apart in enumerate(sums):
                before = whole[:, begin - 1 : begin] if begin else torch.zeros_like(whole[:, :1])
                cosine = torch.cosine_similarity(whole[:, begin:] - before, apart, dim=-1)
                chart[:, begin, begin:] = cosine.numpy()
            yield rows, chart, entropy_N


def _states(hooks: Hooks, tokens_NT: Tensor) -> tuple[Tensor, Floats]:
    """Last states of words by the word from which on all is seen, (n, T, T, D), float64 on the CPU; and the entropy of
    attention of the words of each sentence, in the whole of which all is seen, summed over words, (n,)."""
    import torch

    rows, length = tokens_NT.shape
    size = length - 1
    place = torch.arange(length, device=tokens_NT.device)
    begin = torch.arange(1, length, device=tokens_NT.device)
    hidden_ST = (place > 0) & (place < begin[:, None])
    hidden_B11T = hidden_ST.repeat(rows, 1)[:, None, None]
    found: dict[str, Tensor] = {}
    entropies = []

    def hide(scores: Tensor) -> Tensor:
        # The first token sees itself alone, and words before the first that is seen are of no interest.
        return scores.masked_fill(hidden_B11T, -torch.inf)

    def keep(pattern: Tensor) -> None:
        entropies.append(torch.special.entr(pattern[::size, :, 1:].cpu().double()).sum(-1).mean(1).sum(1))

    functions: dict[str, Any] = {"ln_final.hook_normalized": lambda value: found.update(last=value)}
    for layer in range(hooks.n_layer):
        functions[f"blocks.{layer}.attn.hook_attn_scores"] = hide
        functions[f"blocks.{layer}.attn.hook_pattern"] = keep
    with torch.no_grad(), hooks.at(functions):
        hooks.run(tokens_NT.repeat_interleave(size, 0), logits_to_keep=1)
    states = found["last"][:, 1:].cpu().double().unflatten(0, (rows, size))
    return states, torch.stack(entropies).mean(0).numpy()


def tree(chart_TT: Floats) -> list[Span]:
    """The parts of several words of the tree that a chart is projected onto."""
    found, waiting = [], [(0, len(chart_TT) - 1)]
    while waiting:
        first, last = waiting.pop()
        if first < last:
            found.append((first, last))
            split = first + int(_sides(chart_TT[None], first, last)[0].argmax())
            waiting += [(first, split), (split + 1, last)]
    return found


def _sides(chart_NTT: Floats, first: int, last: int) -> Floats:
    """The sum of c of both sides of a part, for each place where it can be split, (n, T - 1)."""
    return chart_NTT[:, first, first:last] + chart_NTT[:, first + 1 : last + 1, last]


def scores(chart_NTT: Floats) -> dict[str, Floats]:
    """Both scores of each sentence, (n,)."""
    rows, size, _ = chart_NTT.shape
    # Of each part: of its tree, how far splits are above random ones, and all of c; and c in the mean over all trees.
    above, total, mean = np.zeros((3, rows, size, size))
    every = np.arange(rows)
    trees = [1]  # binary trees of so many words, less one
    for width in range(1, size):
        ways = [trees[left] * trees[width - 1 - left] for left in range(width)]
        trees.append(sum(ways))
        share = np.array([way / trees[-1] for way in ways])
        for first in range(size - width):
            last = first + width
            sides = _sides(chart_NTT, first, last)
            best = sides.argmax(1)
            split = first + best
            for part, gain in ((above, sides[every, best] - sides.mean(1)), (total, sides[every, best])):
                part[:, first, last] = gain + part[every, first, split] + part[every, split + 1, last]
            means = mean[:, first, first:last] + mean[:, first + 1 : last + 1, last]
            mean[:, first, last] = ((sides + means) * share).sum(1)
    return {"t score": above[:, 0, -1], "t score of trees": (total - mean)[:, 0, -1]}
