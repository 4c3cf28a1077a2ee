"""What each step of a chain tells about the right answer, beside two other ways to find steps that are wrong.

Ton et al. 2024, "Understanding Chain-of-Thought in LLMs through Information Theory" (arXiv 2411.11984), sections 3-5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.circuits._said_bridges import said_losses
from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.errors import MismatchError

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

Floats = npt.NDArray[np.float64]
RIGHT, WRONG = "right", "wrong"
GAIN, REST, OUTCOME, COMPLETED = "gain", "gain from there on", "outcome", "completed"  # by what a step is flagged
TOKENS = 1 << 14  # of a forward pass


@dataclass(frozen=True)
class InformationGain(Analysis):
    """The supervisor's loss before and after each step of chains that stay right, and of others: what a step gains.

    The model is one that was trained by the objective `every_prefix`. `loss` is minus the log probability of the whole
    right answer, `gain` of step j what it falls by, and from the first wrong step on it should not fall. Beside it
    stand `outcome`, the probability that the same model gives to a right end, and `completed`, the share of the
    chain's own completions that end right (Math-Shepherd). Steps of chains that go wrong are flagged where a number is
    low: the gain, all that is gained from there on, or one of the two others; each has one threshold, the best on half
    of the chains, and is judged on the other half. Chains that stay right are the control. A supervisor that cannot
    read an answer off a whole right chain would flag anything: what it gains is then left out.

    Facts of two hops whose bridge is said are chains of one step, for the model that says them: before it, the answer
    is as probable as over all bridges that the model may say. Each is measured with its own bridge and with that of
    another, and stands under no other way to find steps that are wrong.
    """

    pairs: int = param(500, "most chains", ge=4)
    completions: int = param(10, "of each chain from each of its steps", ge=1)
    gate: float = param(
        0.1, "highest loss of a token after the last step of right chains at which gains are told", gt=0
    )

    def choose(self, source: Source) -> Pairs:
        return source.chains(self.split, self.pairs, self.seed, self.completions)

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        super().check(model, pairs)
        steps = {"prefix", "wrong_step", "completed"} <= pairs.metadata.keys() and "yes" in pairs.notes
        if not steps and not {"bridge", "wrong"} <= pairs.notes.keys():
            raise MismatchError("InformationGain looks at chains of steps, and the prompts are none")

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        others: dict[str, Floats] = {}  # (T + 1, n) each, as the loss
        if "wrong" in pairs.notes:
            loss, wrong_step = said_losses(hooks, pairs)
        else:
            loss, others[OUTCOME] = (np.stack(list(parts)) for parts in zip(*_scores(hooks, pairs)))
            others[COMPLETED] = np.array(pairs.metadata["completed"], np.float64).reshape(loss.shape)
            wrong_step = np.array(pairs.metadata["wrong_step"])[: loss.shape[1]]
        chains = {name: rows for name, rows in {RIGHT: wrong_step == 0, WRONG: wrong_step > 0}.items() if rows.any()}
        is_open = RIGHT in chains and loss[-1, chains[RIGHT]].mean() <= self.gate * pairs.answers.shape[1]
        gain = loss[:-1] - loss[1:] if is_open else np.full_like(loss[1:], np.nan)
        rest = loss[:-1] - loss[-1] if is_open else np.full_like(loss[1:], np.nan)
        rows: list[tuple[str, str, int, float]] = [("gate", RIGHT, len(gain), float(is_open))]
        for name, of in chains.items():
            for measure, values in {"loss": loss, **others}.items():
                rows += [(measure, name, prefix, float(value)) for prefix, value in enumerate(values[:, of].mean(1))]
            rows += [(GAIN, name, step, float(value)) for step, value in enumerate(gain[:, of].mean(1), 1)]
        ways = {GAIN: gain, REST: rest, **{name: values[1:] for name, values in others.items()}}
        for way, scores in ways.items() if WRONG in chains else ():
            rows += [(measure, way, -1, value) for measure, value in judged(scores, wrong_step).items()]
        return {name: [row[i] for row in rows] for i, name in enumerate(("measure", "of", "prefix", "value"))}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.information_gain import draw_information_gain

        return draw_information_gain(table, marks)


def _scores(hooks: Hooks, pairs: Pairs) -> Iterator[tuple[Floats, Floats]]:
    """For each number of steps that are shown: the loss of the right answers, and how probable a right end is, (n,)."""
    import torch

    prefix = np.array(pairs.metadata["prefix"])
    for shown in range(int(prefix.max()) + 1):
        at = np.flatnonzero(prefix == shown)
        length = int(pairs.lengths[at[0]])
        answered = np.hstack([pairs.clean[at, :length], pairs.answers[at]])
        losses, outcomes = [], []
        size = max(TOKENS // answered.shape[1], 1)
        for start in range(0, len(at), size):
            rows = slice(start, start + size)
            tokens = torch.from_numpy(answered[rows]).long().to(hooks.model.device)
            log_p = hooks.run(tokens[:, :-1])[:, length - 1 :].cpu().double().log_softmax(-1)
            losses.append(-log_p.gather(-1, tokens[:, length:, None].cpu())[..., 0].sum(1))
            asked = torch.from_numpy(pairs.corrupted[at[rows], :length]).long().to(hooks.model.device)
            ends = hooks.run(asked, logits_to_keep=1)[:, -1].cpu().double().softmax(-1)
            outcomes.append(ends.gather(1, torch.from_numpy(pairs.notes["yes"][at[rows], None]).long())[:, 0])
        yield torch.cat(losses).numpy(), torch.cat(outcomes).numpy()


def judged(scores: Floats, wrong_step: npt.NDArray[np.int64]) -> Mapping[str, float]:
    """How well wrong steps are found where scores are low; those from the first wrong step on count as wrong.

    Args:
        scores: Of each step of each chain, (T, n).
        wrong_step: The first wrong step of each chain, from 1 on, or 0, (n,); one chain at least has one.

    Returns:
        The threshold that is best for every other chain that goes wrong; of the rest of them the share of steps that
        are told right, the share of wrong steps that are flagged and that of right ones; and the share of all steps
        of chains that stay right. All are NaN where scores are.
    """
    chains = np.flatnonzero(wrong_step)
    steps = np.arange(1, len(scores) + 1)[:, None]
    tuned, tested = chains[::2], chains[1::2] if len(chains) > 1 else chains
    threshold = _best_threshold(scores[:, tuned].ravel(), (steps >= wrong_step[tuned]).ravel())
    is_wrong, is_flagged = steps >= wrong_step[tested], scores[:, tested] <= threshold
    control = scores[:, wrong_step == 0] <= threshold
    shares = {
        "accuracy": is_flagged == is_wrong, "wrong steps flagged": is_flagged[is_wrong],
        "right steps flagged": is_flagged[~is_wrong], "right chains flagged": control,
    }  # fmt: skip
    known = bool(np.isfinite(scores).all())
    found = {name: float(part.mean()) if known and part.size else np.nan for name, part in shares.items()}
    return {**found, "threshold": threshold if known else np.nan}


def _best_threshold(scores: Floats, is_wrong: npt.NDArray[np.bool_]) -> float:
    """The score up to which steps are flagged so that most are told right; below all scores where none should be."""
    order = np.argsort(scores, kind="stable")
    ranked, wrong = scores[order], is_wrong[order]
    right_calls = np.concatenate([[0], np.cumsum(np.where(wrong, 1, -1))])  # beside flagging none
    ends = np.concatenate([[True], ranked[1:] != ranked[:-1], [True]])  # equal scores are flagged together
    best = int(np.flatnonzero(ends)[np.argmax(right_calls[ends])])
    return float(ranked[best - 1]) if best else float(np.nextafter(ranked[0], -np.inf))
