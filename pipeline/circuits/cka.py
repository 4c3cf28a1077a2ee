"""How alike the representations of two steps, or of two runs, are: linear centred kernel alignment.

Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.circuits._other_steps import comparisons
from pipeline.circuits.base import Overview
from pipeline.plots.base import Drawing
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.plots.style import Mark

Grams = dict[tuple[str, int], dict[tuple[int, int], float]]


@dataclass(frozen=True)
class Cka(Overview):
    """Linear CKA of each component's activations with those of the step before, of the last step, and of another run.

    1 where one is the other but for a rotation and a scale, 0 where they have nothing in common.
    """

    source: ClassVar[str] = "matrix_statistics"

    def compare(self, tables: Mapping[int, pa.Table], others: Mapping[int, pa.Table] | None = None) -> pa.Table:
        import pyarrow as pa

        found, elsewhere = ({step: grams(table) for step, table in of.items()} for of in (tables, others or {}))
        rows: list[dict[str, Any]] = []
        for compared, one, other in comparisons(found, elsewhere):
            for (component, layer), products in one.items():
                value = alignment(products, other.get((component, layer), {}))
                rows.append({**compared._asdict(), "component": component, "layer": layer, "cka": value})
        return pa.Table.from_pylist(rows)

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.matrix_statistics import draw_cka

        return draw_cka(table, marks)


def grams(table: pa.Table) -> Grams:
    """The inner products of each component's activations, of one step."""
    import pyarrow.compute as pc

    found: Grams = {}
    chosen = table.filter(pc.field("kind") == "gram")
    columns = (chosen[name].to_pylist() for name in ("component", "layer", "row", "column", "value"))
    for component, layer, row, column, value in zip(*columns):
        found.setdefault((component, layer), {})[row, column] = value
    return found


def alignment(one: Mapping[tuple[int, int], float], other: Mapping[tuple[int, int], float]) -> float:
    """CKA from the lower halves of two tables of inner products, each over its norm.

    Raises:
        ParameterError: when they are of other prompts.
    """
    if one.keys() != other.keys():
        raise ParameterError("against", "the tables are of probe batches of other sizes, or of other components")
    places = np.array(list(one))
    first, second = (np.array([side[place] for place in one]) for side in (one, other))
    twice = np.where(places[:, 0] == places[:, 1], 1.0, 2.0)  # what is off the diagonal stands there twice
    return float((twice * first * second).sum())
