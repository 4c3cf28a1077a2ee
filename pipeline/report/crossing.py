"""Runs over the values of two keys: their heat maps, what is to be seen in them, and the table behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from pipeline.plots.crossed import CrossedRun, crossed
from pipeline.report.differences import as_text, is_number
from pipeline.report.page import Paragraph, Part, code, plain
from pipeline.report.sheets import Sheet
from pipeline.runs.folder import RunFolder


@dataclass(frozen=True)
class Crossed:
    """Two keys, their values in order as labels, and the runs in the cells that they make."""

    keys: tuple[str, str]
    rows: list[str]
    columns: list[str]
    runs: list[CrossedRun]

    @classmethod
    def of(cls, keys: tuple[str, str], values: Mapping[str, Sequence[Any]], runs: Sequence[RunFolder]) -> Crossed:
        """The runs by two of the keys in which they differ; numbers are in their order, other values as they come."""
        rows, columns = ([*dict.fromkeys(map(as_text, _in_order(values[key])))] for key in keys)
        places = zip(values[keys[0]], values[keys[1]])
        found = [
            CrossedRun(
                as_text(row), as_text(column), run.grok.fit_step, run.grok.gen_step, run.grok.grok_step, run.last_step
            )
            for (row, column), run in zip(places, runs)
        ]
        return cls(keys, rows, columns, found)

    def figure(self) -> Figure:
        return crossed(self.keys, self.rows, self.columns, self.runs)

    def sheet(self) -> Sheet:
        """The runs that the heat maps are drawn from, a row each."""
        return Sheet((*self.keys, *CrossedRun._fields[2:]), self.runs)

    @property
    def alt(self) -> str:
        return f"Steps to fit, to generalize and to grok over {self.keys[0]} and {self.keys[1]}, as heat maps."

    @property
    def caption(self) -> str:
        seeds = " Means over seeds; `2 of 3` counts the runs that came so far." if self._has_seeds else ""
        return (
            f"Steps to fit, to generalize and to grok over {code(self.keys[0])} and {code(self.keys[1])}; "
            f"what was not reached is grey.{seeds}"
        )

    @property
    def _has_seeds(self) -> bool:
        return len({(run.row, run.column) for run in self.runs}) < len(self.runs)

    def findings(self) -> list[Part]:
        """Where all runs generalize first and last, and in how many cells none does."""
        cells: dict[tuple[str, str], list[int | None]] = {}
        for run in self.runs:
            cells.setdefault((run.row, run.column), []).append(run.gen_step)
        whole = {cell: fmean(filter(None, steps)) for cell, steps in cells.items() if all(steps)}
        never = sum(not any(steps) for steps in cells.values())
        if not whole:
            return [Paragraph(f"In none of the {len(cells)} cells all runs generalize.")]
        first, last = (choose(whole, key=lambda cell: whole[cell]) for choose in (min, max))
        words = f"It generalizes first at {self._at(first)}, at step {whole[first]:,.0f}"
        if first != last:
            words += f", and last at {self._at(last)}, at step {whole[last]:,.0f}"
        return [Paragraph(f"{words}{f'; in {never} of {len(cells)} cells it does not' if never else ''}.")]

    def _at(self, cell: tuple[str, str]) -> str:
        return " and ".join(f"{code(key)} {plain(value)}" for key, value in zip(self.keys, cell))


def _in_order(values: Sequence[Any]) -> list[Any]:
    return sorted(values) if all(map(is_number, values)) else list(values)
