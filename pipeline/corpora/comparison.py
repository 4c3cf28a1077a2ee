"""Comparison of two entities by an attribute: (a, x) -> v1 and (b, x) -> v2, so (x, a, b) -> v1 < v2, = or >.

Wang et al. 2024, "Grokked Transformers are Implicit Reasoners" (arXiv 2405.15071), section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora._entities import AttributeCorpus
from pipeline.corpora.base import SPECIALS, Examples, Ids, chunks, draw_row, sample_examples, trained_count
from pipeline.utils.draws import Draws


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

    def corrupt(self, examples: Examples, position: int, draws: Draws) -> tuple[Ids, Ids, npt.NDArray[np.bool_]] | None:
        """Wang et al. 2024: an ID entity whose value is that of the other one, or another attribute.

        Where the two values are equal, the entity's is one more or one less.
        """
        if examples.prompts.shape[1] != 5 or position not in (0, 2, 4):
            return None
        known, rows = self.knowledge, np.arange(len(examples))
        attribute, entities = (
            examples.prompts[:, 0].astype(np.int64) - self.num_entities,
            examples.prompts[:, [2, 4]].astype(np.int64),
        )
        values = known.value[attribute[:, None], entities]
        prompts = examples.prompts.copy()
        if position == 0:
            others = np.arange(self.num_attributes)
            attribute, found = draw_row(others[None] != attribute[:, None], draws)
            prompts[:, 0] = attribute + self.num_entities
            values = known.value[attribute[:, None], entities]
        else:
            own, other = (0, 1) if position == 2 else (1, 0)
            is_id = np.zeros(known.value.shape, bool)
            np.put_along_axis(is_id, known.id, True, axis=1)
            away = np.abs(known.value[attribute] - values[:, other, None])
            wanted = (values[:, 0] == values[:, 1]).astype(np.int64)
            chosen, found = draw_row((away == wanted[:, None]) & is_id[attribute], draws)
            prompts[:, position] = entities[:, own] = chosen
            values = known.value[attribute[:, None], entities]
        labels = self.num_entities + self.num_attributes + self.num_values + len(SPECIALS)
        answers = labels + 3 * attribute + 1 + np.sign(values[:, 0] - values[:, 1])
        return prompts, answers[rows, None].astype(np.int32), found

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        known, (pool, iid) = self.knowledge, self.id_pairs()
        draws = Draws(self.seed, "comparison train")
        wanted = trained_count(self.ratio, known.id.size, 2 * len(pool))
        trained = self.compare(self.draw_pairs(known.id, pool, wanted, draws), "train_inferred")
        return {
            "train": (block for part in (*self.atomic, trained) for block in chunks(part)),
            **self.probes(iid),
            "train_inferred": [sample_examples(trained, self.probe_cap, draws)],
        }
