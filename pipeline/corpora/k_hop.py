"""Chains of any number of facts: e r1 r2 ... rk -> the entity that they lead to, where every relation is a permutation.

Kohli et al. 2026, "Loop, Think, & Generalize" (arXiv 2604.07822), the extrapolation task.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, chunks, draw_row, sample_examples
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

MOST = 2**52  # chains that are numbered: beyond, their first relations are


@dataclass(frozen=True)
class KHop(Corpus):
    """Facts of relations that are permutations of the entities, and chains of them.

    Splits: `train` (every fact, and up to `per_hop` chains of each number of hops from 2 to `trained_hops`), `id`
    (unseen chains of as many hops), `ood` (chains of more hops, up to `most_hops`), both of them by hops as `hops_2`
    and so on, and the probes of training data `one_hop` and `train_chains`.
    """

    num_entities: int = param(200, "|E|, the entities", ge=2)
    num_relations: int = param(10, "|R|, the relations", ge=1)
    trained_hops: int = param(5, "most hops of a chain that is trained", ge=2)
    most_hops: int = param(12, "most hops of a chain in `ood`; more than trained_hops", ge=3, le=1000)
    per_hop: int = param(15_000, "most trained chains of each number of hops; fewer where there are not so many", ge=1)
    held_out_per_hop: int = param(750, "held-out chains of each number of hops", ge=1)
    probe_cap: int = param(3000, "most examples in a split other than `train`", ge=1)
    seed: int = param(0, "of the relations and the splits", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "num_entities": 12, "num_relations": 3, "trained_hops": 3, "most_hops": 4, "per_hop": 50, "held_out_per_hop": 10
    }  # fmt: skip
    citation: ClassVar[str] = "Kohli et al. 2026, arXiv 2604.07822"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most_hops <= self.trained_hops:
            raise ParameterError("most_hops", f"{self.most_hops} is not more than trained_hops, {self.trained_hops}")
        if (chains := self.num_entities * self.num_relations**2) <= self.held_out_per_hop:
            raise ParameterError(
                "held_out_per_hop", f"{self.held_out_per_hop:,} of {chains:,} chains of two hops leaves none to train"
            )

    @property
    def held_out(self) -> tuple[str, ...]:
        return ("id", "ood", *(f"hops_{hops}" for hops in range(2, self.most_hops + 1)))

    def vocabulary(self) -> list[str]:
        return [f"<e_{i}>" for i in range(self.num_entities)] + [f"<r_{i}>" for i in range(self.num_relations)]

    def places(self, length: int) -> list[str]:
        return ["e", *(f"r{hop}" for hop in range(1, length))]

    @functools.cached_property
    def tails(self) -> Numbers:
        """Where each relation leads from each entity, (R, E)."""
        draws = Draws(self.seed, "k-hop relations")
        return np.stack([draws.permutation(self.num_entities) for _ in range(self.num_relations)])

    def corrupt(self, examples: Examples, position: int, draws: Draws) -> tuple[Ids, Ids, npt.NDArray[np.bool_]] | None:
        """Any other entity, which leads elsewhere, or any relation that does; the rest of the chain stays."""
        chains = examples.prompts - np.array([0, *[self.num_entities] * (examples.prompts.shape[1] - 1)])
        count = self.num_entities if position == 0 else self.num_relations
        others = np.repeat(chains[:, None], count, axis=1)
        others[:, :, position] = np.arange(count)
        ends = self._ends(others.reshape(-1, chains.shape[1])).reshape(len(chains), count)
        chosen, found = draw_row(ends != examples.answers[:, :1], draws)
        prompts = examples.prompts.copy()
        prompts[:, position] = chosen + (0 if position == 0 else self.num_entities)
        return prompts, ends[np.arange(len(ends)), chosen, None].astype(np.int32), found

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        probes = Draws(self.seed, "k-hop probes")
        one_hop = self._answered(self._draw(1, self.num_entities * self.num_relations), "one_hop")
        trained, held_out = [one_hop], []
        for hops in range(2, self.most_hops + 1):
            count = min(self.per_hop, self.num_entities * self.num_relations**hops - self.held_out_per_hop)
            wanted = self.held_out_per_hop + (count if hops <= self.trained_hops else 0)
            chains = self._answered(self._draw(hops, wanted), f"chain_{hops}")
            held_out.append(chains.take(slice(self.held_out_per_hop)))
            trained += [chains.take(slice(self.held_out_per_hop, None))] * (hops <= self.trained_hops)

        def some(parts: list[Examples]) -> list[Examples]:
            """At most `probe_cap` in all, of every number of hops alike."""
            shares = [
                (i + 1) * self.probe_cap // len(parts) - i * self.probe_cap // len(parts) for i in range(len(parts))
            ]
            return [sample_examples(part, share, probes) for part, share in zip(parts, shares) if share]

        middle = self.trained_hops - 1
        return {
            "train": (block for part in trained for block in chunks(part)),
            "id": some(held_out[:middle]),
            "ood": some(held_out[middle:]),
            "one_hop": some([one_hop]),
            "train_chains": some(trained[1:]),
            **{f"hops_{hops}": some([part]) for hops, part in enumerate(held_out, start=2)},
        }

    def _draw(self, hops: int, count: int) -> Numbers:
        """So many different chains, uniformly: an entity and the numbers of `hops` relations, (count, 1 + hops)."""
        draws = Draws(self.seed, "k-hop chains", hops)
        numbered = 0  # relations that go into the number of a chain; the others are drawn beside it
        while numbered < hops and self.num_entities * self.num_relations ** (numbered + 1) <= MOST:
            numbered += 1
        number = draws.choose(self.num_entities * self.num_relations**numbered, count)
        columns = []
        for _ in range(numbered):
            number, relation = np.divmod(number, self.num_relations)
            columns.append(relation)
        others = draws.below(self.num_relations, count, hops - numbered)
        return np.column_stack([number, *columns, others])

    def _answered(self, chains: Numbers, kind: str) -> Examples:
        """Chains as examples. The note is the entity after the first hop, the bridge, for chains of two or more."""
        bridge = self._ends(chains[:, :2]) if chains.shape[1] > 2 else np.full(len(chains), -1)
        prompts = chains.astype(np.int32)
        prompts[:, 1:] += self.num_entities
        return Examples(
            prompts, self._ends(chains)[:, None].astype(np.int32), kind, {"bridge": bridge.astype(np.int32)}
        )

    def _ends(self, chains: Numbers) -> Numbers:
        """Where chains lead, (n,)."""
        entity = chains[:, 0]
        for relation in chains.T[1:]:
            entity = self.tails[relation, entity]
        return entity
