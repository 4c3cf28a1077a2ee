"""What a model answers whose blocks run more or fewer times than they were trained to.

Kohli et al. 2026, "Loop, Think, & Generalize" (arXiv 2604.07822): longer chains of facts need more loops, halting where
the answer no longer changes, and overthinking, where a right answer is lost again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.circuits._splits import SPLIT, OverSplits, joined
from pipeline.circuits.base import Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.errors import MismatchError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark


@dataclass(frozen=True)
class Loops(OverSplits):
    """Answers by the number of loops, of each split: right ones, by how much, and how many prompts halt there.

    Loop r is the model with its blocks run r times, 0 its embeddings alone. A prompt halts at the first loop whose
    answer differs by less than `tolerance` from that of the loop before, or else at the last. `margin` is the logit of
    the answer over the highest other one, and `kl` the divergence of the loop before from this one. A model without
    loops has one.
    """

    most: int | None = param(None, "loops; null: twice as many as were trained", ge=1)
    discrete: float = param(
        0.0, "how much of the tokens that a state points to is added to it between loops, untrained (DiscoLoop)", ge=0
    )
    tolerance: float = param(0.01, "Kullback-Leibler divergence, in nats, below which a prompt halts", gt=0)

    def choose(self, source: Source) -> Pairs:
        return joined({split: self._of(source, split) for split in self.splits})

    def _of(self, source: Source, split: str) -> Pairs:
        """Pairs of a split, each prompt once: of prompts of the corpus, or else by its rule, as long chains need."""
        import numpy as np

        try:
            return source.pairs(split, self.pairs, self.seed)
        except ParameterError:
            found = source.pairs(split, self.pairs, self.seed, True, "any")
        return found.take(np.sort(np.unique(found.clean, axis=0, return_index=True)[1]))

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        super().check(model, pairs)
        if (self.most or self.discrete) and not hasattr(model.config, "n_loops"):
            key = "most" if self.most else "discrete"
            raise MismatchError(f"{key} would change nothing in {type(model).__name__}, whose blocks run once")

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        import numpy as np

        names = pairs.metadata.get(SPLIT, [self.split] * len(pairs))
        right, margin, kl = looped_answers(hooks, pairs, self.most, self.discrete)
        halted = halts(kl, self.tolerance)
        found: dict[str, list[Any]] = {
            name: [] for name in ("set", "split", "loops", "accuracy", "margin", "kl", "halted", "accuracy halted")
        }
        for number, split in enumerate(dict.fromkeys(names)):
            rows = np.flatnonzero(np.array(names) == split)
            at_halt = float(right[halted[rows], rows].mean())
            for loops in range(len(right)):
                values = (right[loops, rows], margin[loops, rows], kl[loops, rows], halted[rows] == loops)
                for name, value in zip(
                    found, (number, split, loops, *(float(value.mean()) for value in values), at_halt)
                ):
                    found[name].append(value)
        return found

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.heatmap import drawn_grids, grids

        found = grids(table, "accuracy", "loops", "set", None, "split")
        what = "share of right answers by how often the blocks run, of each split"
        return {"": drawn_grids(found, what, ("loops", "split"), marks)}


def looped_answers(hooks: Hooks, pairs: Pairs, most: int | None = None, discrete: float = 0.0) -> tuple[Any, Any, Any]:
    """Whether the answer is the top token, its margin, and the divergence from the loop before, (R + 1, n) each.

    One forward pass with all loops is enough, as a loop sees nothing of those after it. Before the first loop the
    divergence is NaN.

    Args:
        hooks: Of the model.
        pairs: Whose clean prompts are answered.
        most: Loops; None: twice as many as the model has.
        discrete: How much of the tokens that a state points to is added between loops.
    """
    import torch
    from torch.nn import functional as F

    from pipeline.circuits._batch import on_device, split
    from pipeline.circuits.hooks import Hooks
    from pipeline.kernels.devices import widest
    from pipeline.models.modeling_gpt2_looped import with_tokens

    def pointed(states: torch.Tensor) -> torch.Tensor:
        return with_tokens(hooks.model, states, discrete, 1.0)

    stack: Any = getattr(hooks.model.base_model, hooks.family.blocks)
    trained = getattr(stack, "n_loops", None)
    parts = []
    try:
        if trained is not None:
            stack.n_loops = most or 2 * trained
            hooks = Hooks(hooks.model)
        loops = 1 if trained is None else stack.n_loops
        once = hooks.n_layer // loops
        points = ["blocks.0.hook_resid_pre", *(f"blocks.{once * r - 1}.hook_resid_post" for r in range(1, loops + 1))]
        between = {f"blocks.{once * r}.hook_resid_pre": pointed for r in range(1, loops)} if discrete else {}
        for batch in split(on_device(hooks, pairs), hooks.n_layer * pairs.clean.shape[1] * hooks.d_model):
            rows = torch.arange(len(batch), device=batch.clean.device)
            with hooks.at(between):
                _, states = hooks.read(batch.clean, points)
            ends = torch.stack([states[point][rows, batch.last] for point in points])
            with torch.no_grad():
                logits = hooks.head(hooks.final_norm(ends)).to(widest(ends.device))
            answer = batch.answer[None, :, None].expand(len(points), -1, 1)
            own = logits.gather(-1, answer)[..., 0]
            margin = own - logits.scatter(-1, answer, -torch.inf).amax(-1)
            log_p = logits.log_softmax(-1)
            kl = F.kl_div(log_p[1:], log_p[:-1], log_target=True, reduction="none").sum(-1)
            kl = torch.cat([torch.full_like(kl[:1], torch.nan), kl])
            parts.append(torch.stack([(margin > 0).to(margin.dtype), margin, kl]).cpu())
    finally:
        if trained is not None:
            stack.n_loops = trained
    right, margin, kl = torch.cat(parts, -1).numpy()
    return right, margin, kl


def halts(kl: Any, tolerance: float) -> Any:
    """The first loop at which each prompt's divergence (R + 1, n) is below the tolerance, or else the last, (n,)."""
    import numpy as np

    below = np.nan_to_num(kl, nan=np.inf) < tolerance
    return np.where(below.any(0), below.argmax(0), len(kl) - 1)
