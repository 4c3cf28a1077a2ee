"""Comparison of two entities by an attribute: (a, x) -> v1 and (b, x) -> v2, so (x, a, b) -> v1 < v2, = or >.

Wang et al. 2024, "Grokked Transformers are Implicit Reasoners" (arXiv 2405.15071), section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.corpora._attributes import AttributeCorpus
from pipeline.corpora.base import Draws, Examples, chunks, sample, trained_count
from pipeline.parameters import param


@dataclass(frozen=True)
class Comparison(AttributeCorpus):
    """Atomic facts of entities with ordinal attributes, and comparisons of two entities by one of them.

    For each attribute a share `ood_fraction` of the entities never takes part in a trained comparison. Splits: `train`
    (all atomic facts and ratio x |ID atomic| comparisons of ID entities), `id` (unseen pairs of ID entities), `ood`
    (pairs of OOD entities), and the probes of training data `train_inferred`, `id_atomic`, `ood_atomic`.
    """

    ratio: float = param(7.2, "phi: trained comparisons per ID atomic fact", gt=0)
    seed: int = param(0, "of the facts and the splits", ge=0)

    atomic_template: ClassVar[tuple[str, str]] = ("entity attribute", "value </a>")
    inferred_template: ClassVar[tuple[str, str]] = ("attribute <q> first <mask> second", "label </a>")

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        known, (pool, iid) = self.knowledge, self.id_pairs()
        draws = Draws(self.seed, "comparison train")
        wanted = trained_count(self.ratio, known.id.size, 2 * len(pool))
        trained = self.compare(self.draw_pairs(known.id, pool, wanted, draws), "train_inferred")
        return {
            "train": (block for part in (*self.atomic, trained) for block in chunks(part)),
            **self.probes(iid),
            "train_inferred": [sample(trained, self.probe_cap, draws)],
        }
