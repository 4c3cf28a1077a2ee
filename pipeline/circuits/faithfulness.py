"""How well a circuit alone does what the model does, over the number of its edges.

Circuits from the scores of `attribution`: Hanna et al. 2024 (arXiv 2403.17806), with faithfulness normalized by the
corrupted run; Tigges et al. 2024 (arXiv 2407.10827), with the ratio to the whole model; CPR and CMD: Mueller et al.
2025, "MIB" (arXiv 2504.13151), section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.circuits._graph import Edges, Graph, Scores
from pipeline.circuits._splits import SPLIT, OverSplits, each_split
from pipeline.circuits.attribution import Attribution
from pipeline.circuits.base import Columns, Pairs
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.circuits._resampling import Floats
    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

STABLE = 0.95  # of the circuits from redrawn pairs
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of all edges, as in MIB


@dataclass(frozen=True)
class Faithfulness(Attribution, OverSplits):
    """The metric of circuits of growing size, of what is left of the model without them, and of random circuits.

    m is the mean metric of a circuit C, of the whole model, and of the corrupted run, which is the circuit without
    edges. `ratio` is m(C) / m(model), `normalized` is (m(C) - m(corrupted)) / (m(model) - m(corrupted)); both with the
    central 95 % of a bootstrap over pairs. `cpr` is the area under `normalized` over the share of edges, `cmd` that
    between it and 1. `smallest` is the number of edges of the first circuit, found by bisection, whose chosen
    faithfulness reaches `target`, `smallest_edges` are their names. `stable` is how many edges of a circuit are in at
    least 95 % of the circuits of as many edges that are found with pairs drawn anew, `alike` the mean Jaccard
    similarity with these, and `stable_edges` those of the smallest one. Where the model's metric does not stand out
    from 0, or from that of the corrupted run, `absent` is true, and there is no behaviour to be faithful to: the ratios
    are then left out. Of several splits each has its own circuits, in rows that the column `split` tells apart.
    """

    split: str = param("id", "splits that the prompts are taken from, one or more with commas")
    draws: int = param(100, "of pairs, with replacement, for which edges of a circuit are stable; 0: none", ge=0)
    selection: Literal["greedy", "top"] = param("greedy", "edges from the logits upwards, or the highest of all")
    convention: Literal["normalized", "ratio"] = param("normalized", "the faithfulness that has to reach the target")
    target: float = param(0.8, "faithfulness of the smallest circuit", gt=0, le=1)
    shares: tuple[float, ...] = param((), "of all edges, to measure circuits of; []: those of MIB, 0.001 to 1")

    needs_float32: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ("level",)  # circuits are of edges

    def __post_init__(self) -> None:
        super().__post_init__()
        ascending = list(self.shares) == sorted(self.shares)
        if not ascending or any(not 0 < share <= 1 for share in self.shares):
            raise ParameterError("shares", f"{list(self.shares)} are not ascending numbers > 0 and <= 1")

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        return each_split(pairs, partial(self._measured, hooks))

    def _measured(self, hooks: Hooks, pairs: Pairs) -> Columns:
        from pipeline.circuits._edge_patching import graph_of
        from pipeline.circuits._resampling import mean

        graph = graph_of(hooks)
        edges = self.of_pairs(hooks, pairs)
        order = self._order(graph, mean(edges))
        shuffled = order[Draws(self.seed, "random circuits").permutation(len(order))]
        judge = Judge(self, hooks, pairs, graph)
        shares = self.shares or SHARES
        counts = [max(round(share * len(order)), 1) for share in shares]
        circuits = {
            "circuit": [graph.circuit(order, n) for n in counts],
            "complement": [graph.edges & ~graph.circuit(order, n) for n in counts],
            "random": [graph.prune(_first(graph, shuffled, n)) for n in counts],
        }
        count = judge.smallest(order)
        smallest = graph.circuit(order, count or 0)
        stability = self._stability(graph, edges, order, [*counts, count or 0])
        rows: dict[str, list[Any]] = {}
        for curve, members in circuits.items():
            for share, asked, circuit, found in zip(shares, counts, members, judge.all(members)):
                row = {"curve": curve, "share": share, "asked": asked, "edges": int(circuit.sum()), **found}
                row["alike"] = row["stable"] = float("nan")
                if curve == "circuit" and asked in stability:
                    row["alike"], row["stable"] = stability[asked].alike, float(stability[asked].edges.sum())
                for name, value in row.items():
                    rows.setdefault(name, []).append(value)
        normalized = np.array(rows["normalized"][: len(counts)])
        # MIB's integrals begin at the smallest circuit.
        summary = {
            "model_metric": judge.clean,
            "corrupted_metric": judge.corrupted,
            "absent": judge.absent,
            "cpr": float(_area(shares, normalized)),
            "cmd": float(_area(shares, abs(1 - normalized))),
            "smallest": float("nan") if count is None else float(smallest.sum()),
            "smallest_edges": graph.names(smallest),
            "stable_edges": graph.names(stability[count or 0].edges) if stability else "",
        }
        return {**rows, **{name: [value] * len(rows["curve"]) for name, value in summary.items()}}

    def _order(self, graph: Graph, scores: Scores) -> npt.NDArray[np.int64]:
        """All edges in the order in which they are taken into a circuit, by their scores (E,)."""
        table = graph.table(scores)
        return graph.greedy(table) if self.selection == "greedy" else graph.top(table)

    def _stability(
        self, graph: Graph, edges: Floats, order: npt.NDArray[np.int64], counts: Sequence[int]
    ) -> dict[int, Stability]:
        """By how many edges a circuit has before pruning; empty without draws, and with a single pair.

        Circuits of one draw are looked at after the other, as there may be millions of edges.
        """
        from pipeline.circuits._resampling import shares

        if not self.draws or len(edges) < 2:
            return {}
        circuits = {n: graph.circuit(order, n) for n in counts}
        times = {n: np.zeros(graph.edges.shape, np.int32) for n in counts}
        alike = dict.fromkeys(counts, 0.0)
        for part in shares(len(edges), self.draws, self.seed):
            redrawn = self._order(graph, part @ edges)
            for n, circuit in circuits.items():
                other = graph.circuit(redrawn, n)
                times[n] += other
                alike[n] += float((circuit & other).sum() / max((circuit | other).sum(), 1))
        return {n: Stability(circuits[n] & (times[n] >= STABLE * self.draws), alike[n] / self.draws) for n in circuits}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        import pyarrow.compute as pc

        from pipeline.plots.circuit import draw_faithfulness

        if SPLIT not in table.column_names:
            return draw_faithfulness(table, self.target, marks)
        found = {}
        for split in dict.fromkeys(table[SPLIT].to_pylist()):
            drawn = draw_faithfulness(table.filter(pc.field(SPLIT) == split), self.target, marks)
            for ending, drawing in drawn.items():
                named = dataclasses.replace(drawing, caption=f"{split}: {drawing.caption}")
                found["_".join(filter(None, (split, ending)))] = named
        return found


def _area(x: Sequence[float], y: npt.NDArray[np.float64]) -> float:
    """Under a curve of straight lines."""
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def _first(graph: Graph, order: npt.NDArray[np.int64], n: int) -> Edges:
    found = np.zeros(graph.edges.size, bool)
    found[order[:n]] = True
    return found.reshape(graph.edges.shape)


class Stability(NamedTuple):
    """Of a circuit the edges that are stable, and how alike it is to those that are found with pairs drawn anew."""

    edges: Edges
    alike: float


class Judge:
    """Measures circuits of one model on one set of pairs."""

    def __init__(self, wanted: Faithfulness, hooks: Hooks, pairs: Pairs, graph: Graph):
        from pipeline.circuits._batch import answer_logits, measure, on_device, stands_out

        self.wanted, self.hooks, self.graph = wanted, hooks, graph
        self.batch = on_device(hooks, pairs)
        self.reference = answer_logits(hooks, self.batch.clean, self.batch)
        self.whole = measure(wanted.metric, self.reference, self.batch, self.reference).cpu().double()
        broken = answer_logits(hooks, self.batch.corrupted, self.batch)
        self.empty = measure(wanted.metric, broken, self.batch, self.reference).cpu().double()
        self.clean, self.corrupted = float(self.whole.mean()), float(self.empty.mean())
        # A divergence is 0 at best, so there only the distance from the corrupted run says anything.
        beyond = [self.whole - self.empty] + [self.whole] * (wanted.metric != "kl")
        self.absent = not all(map(stands_out, beyond))

    def metrics(self, circuits: list[Edges]) -> Any:
        """The metric of each circuit on each pair, (C, n)."""
        import torch

        from pipeline.circuits._edge_patching import cut_metric

        kept = torch.from_numpy(np.stack(circuits)).to(self.batch.clean.device)
        return cut_metric(self.hooks, self.batch, kept, self.wanted.metric, self.reference).cpu().double()

    def all(self, circuits: list[Edges]) -> list[dict[str, float]]:
        """Metric and both kinds of faithfulness of each circuit, with their bootstrap intervals."""
        from pipeline.circuits._batch import bootstrap

        rows = []
        for values in self.metrics(circuits):
            row = {"metric": float(values.mean())}
            for name in ("ratio", "normalized"):
                row[name] = self.faithfulness(name, values)
                row[f"{name}_low"], row[f"{name}_high"] = (float("nan"),) * 2
                if not self.absent:
                    share = partial(self._share, name, values)
                    row[f"{name}_low"], row[f"{name}_high"] = bootstrap(share, len(values), self.wanted.seed)
            rows.append(row)
        return rows

    def faithfulness(self, name: str, values: Any) -> float:
        return float("nan") if self.absent else float(self._share(name, values, slice(None)))

    def _share(self, name: str, values: Any, rows: Any) -> Any:
        """A kind of faithfulness from the pairs of some rows, (n,), or of many draws of them, (draws, n)."""
        circuit, whole, empty = (part[rows].mean(-1) for part in (values, self.whole, self.empty))
        return circuit / whole if name == "ratio" else (circuit - empty) / (whole - empty)

    def smallest(self, order: npt.NDArray[np.int64]) -> int | None:
        """Of how many edges, before pruning, a circuit reaches the target whose predecessor does not; None: of none."""
        if self.absent:
            return None
        low, high = 0, len(order)  # the whole model is as faithful as can be
        while high - low > 1:
            middle = (low + high) // 2
            (values,) = self.metrics([self.graph.circuit(order, middle)])
            reached = self.faithfulness(self.wanted.convention, values) >= self.wanted.target
            low, high = (low, middle) if reached else (middle, high)
        return high
