"""A language model as a map between sentences and points of a cube, by arithmetic coding.

Celotti et al. 2020, "AriEL: volume coding for sentence generation" (arXiv 2003.13600), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.draws import Draws
from pipeline.utils.errors import MismatchError

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

Sentence = tuple[int, ...]
Point = list[Fraction]
SOBOL, SAMPLED = "Sobol points", "samples"
WHOLE = 1 << 40  # probabilities are counts out of about so many, so that boxes are exact
TOKENS = 1 << 15  # of a forward pass


@dataclass(frozen=True)
class LatentSpace(Analysis):
    """What sentences the points of a cube stand for, which is divided as a model divides its probability.

    At each word one axis after the other is divided among the words that may follow, in proportion to their
    probabilities; a sentence's box has its probability as volume. `volume` is that of the sentences of each split, of
    all others of the grammar, and of what is none; `reconstruction` the share of sentences of `split` that the middle
    of their own box stands for. Of evenly spread (Sobol) points, and of as many samples of the model, `valid` is the
    share that stands for a sentence of the grammar, `unique` how many different ones there are for each, and `coverage`
    the share of a split's sentences among them.
    """

    pairs: int = param(200, "most sentences that are mapped to their boxes and back", ge=1)
    dimensions: int = param(4, "axes of the cube", ge=1, le=1000)
    points: int = param(1024, "of each kind", ge=2)

    tiny_values: ClassVar[Mapping[str, Any]] = {"pairs": 8, "points": 16}

    def choose(self, source: Source) -> Pairs:
        return source.language()

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        super().check(model, pairs)
        if "split" not in pairs.metadata:
            raise MismatchError("LatentSpace looks at all sentences of a language, and the prompts are none")

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        from torch.quasirandom import SobolEngine

        splits = np.array(pairs.metadata["split"])
        every = [tuple(row[:length].tolist()) for row, length in zip(pairs.clean, pairs.lengths)]
        language = dict(zip(every, splits))
        coder = Coder(hooks, every[0][0], every[0][-1], max(map(len, every)), self.dimensions)
        rows: list[tuple[str, str, float]] = []
        volumes = np.exp(coder.log_volumes(every))
        for split in dict.fromkeys(splits):
            rows.append(("volume", str(split), float(volumes[splits == split].sum())))
        rows.append(("volume", "no sentence", 1 - float(volumes.sum())))
        chosen = np.flatnonzero(splits == self.split)
        chosen = chosen[Draws(self.seed, "sentences").permutation(len(chosen))[: self.pairs]]
        sentences = [every[row] for row in chosen]
        back = coder.decode(coder.encode(sentences))
        rows.append(("reconstruction", self.split, float(np.mean([a == b for a, b in zip(sentences, back)]))))
        seed = int(Draws(self.seed, "Sobol").below(1 << 31, 1)[0])
        drawn = {
            SOBOL: SobolEngine(self.dimensions, scramble=True, seed=seed).draw(self.points).numpy().astype(np.float64),
            SAMPLED: Draws(self.seed, "samples").uniform(self.points, coder.longest),
        }
        for way, points in drawn.items():
            # As many axes as words make independent draws: then it is sampling from the model.
            found = coder.decode([list(map(Fraction, point)) for point in points.tolist()])
            valid = [sentence for sentence in found if sentence in language]
            rows.append(("valid", way, len(valid) / len(found)))
            rows.append(("unique", way, len(set(valid)) / len(found)))
            for split in dict.fromkeys(splits):
                came = sum(language[sentence] == split for sentence in set(valid))
                rows.append((f"coverage of {split}", way, came / int((splits == split).sum())))
        return {name: [row[i] for row in rows] for i, name in enumerate(("measure", "of", "value"))}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.latent_space import draw_latent_space

        return draw_latent_space(table, marks)


class Coder:
    """Sentences as points of the unit cube, and points as sentences; both begin and end with fixed tokens."""

    def __init__(self, hooks: Hooks, start: int, end: int, longest: int, dimensions: int):
        self.hooks, self.start, self.end, self.longest, self.dimensions = hooks, start, end, longest, dimensions

    def log_volumes(self, sentences: Sequence[Sentence]) -> npt.NDArray[np.float64]:
        """The log probability of each sentence after its first token, (n,)."""
        found = np.empty(len(sentences))
        for at, chances in self._chances(sentences):
            tokens = np.array([sentences[row] for row in at])[:, 1:, None]
            found[at] = np.log(np.take_along_axis(chances, tokens, 2)[..., 0]).sum(1)
        return found

    def _chances(self, sentences: Sequence[Sentence]) -> Iterator[tuple[list[int], npt.NDArray[np.float64]]]:
        """Numbers of sentences of one length, and the probabilities of each token but their first, (n, T - 1, V)."""
        import torch

        for length in sorted({len(sentence) for sentence in sentences}):
            rows = [row for row, sentence in enumerate(sentences) if len(sentence) == length]
            size = max(TOKENS // length, 1)
            for start in range(0, len(rows), size):
                at = rows[start : start + size]
                tokens = torch.tensor([sentences[row] for row in at], device=self.hooks.model.device)
                logits = self.hooks.run(tokens[:, :-1]) if length > 1 else self.hooks.run(tokens)
                yield at, logits.detach().cpu().double().softmax(-1).numpy()

    def encode(self, sentences: Sequence[Sentence]) -> list[Point]:
        """The middle of the box of each sentence."""
        found: list[Point] = [[] for _ in sentences]
        for at, chances in self._chances(sentences):
            for row, chances_TV in zip(at, chances):
                low, width = [Fraction(0)] * self.dimensions, [Fraction(1)] * self.dimensions
                for place, (token, each) in enumerate(zip(sentences[row][1:], ends_of(chances_TV))):
                    axis = place % self.dimensions
                    below, total = int(each[token - 1]) if token else 0, int(each[-1])
                    low[axis] += width[axis] * Fraction(below, total)
                    width[axis] *= Fraction(int(each[token]) - below, total)
                found[row] = [edge + wide / 2 for edge, wide in zip(low, width)]
        return found

    def decode(self, points: Sequence[Point]) -> list[Sentence]:
        """The sentence in whose box each point lies; cut off where it is longer than any of the language.

        The number of axes is that of the points.
        """
        rest = [list(point) for point in points]
        found: list[Sentence] = [(self.start,)] * len(points)
        is_open = list(range(len(points)))
        for place in range(self.longest):
            following = []
            prefixes = [found[row] for row in is_open]
            for at, chances in self._chances([(*prefix, self.start) for prefix in prefixes]):
                for number, each in zip(at, ends_of(chances[:, -1])):
                    row = is_open[number]
                    axis, total = place % len(rest[row]), int(each[-1])
                    scaled = rest[row][axis] * total
                    token = int(np.searchsorted(each, int(scaled), side="right"))
                    below = int(each[token - 1]) if token else 0
                    rest[row][axis] = (scaled - below) / (int(each[token]) - below)
                    found[row] += (token,)
                    if token != self.end:
                        following.append(row)
            is_open = sorted(following)
        return found


def ends_of(chances: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Where each token's share of a line ends, as whole numbers; every token has a share; probabilities (..., V)."""
    return (1 + np.floor(chances * WHOLE).astype(np.int64)).cumsum(-1)
