"""How far analyses have come, by name, at the foot of a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pipeline.circuits.base import Explanation, Overview
from pipeline.circuits.runner import with_sources
from pipeline.runs.checkpoints import choose_steps
from pipeline.runs.folder import RunFolder
from pipeline.utils.doing import doing


def expected(run: RunFolder, analyses: Mapping[str, Explanation]) -> dict[str, int]:
    """How many tables `explain` will give of each analysis, in its order."""
    return {
        name: 1 if isinstance(analysis, Overview) else len(choose_steps(run.manifest, analysis.steps))
        for name, analysis in with_sources(analyses).items()
    }


def watched(tables: Iterable[Path], expected: Mapping[str, int]) -> Iterator[Path]:
    """The tables that `explain` gives; meanwhile a bar says how many there are, and of which analysis the next is."""
    total, done, order = sum(expected.values()), Counter[str](), [*expected]
    if order:
        doing(f"analysing: {order[0]}", 0, total)
    for table in tables:
        yield table
        name = table.parent.name
        done[name] += 1
        later = order[order.index(name) + 1 :]
        upcoming = later[0] if later and done[name] == expected[name] else name
        doing(f"analysing: {upcoming}", done.total(), total)
