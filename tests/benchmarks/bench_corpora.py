"""How long corpora take to generate and to read back, and what memory they need; each in a process with an empty cache.

    python tests/benchmarks/bench_corpora.py [NAME ...]

Every corpus is measured, at its default size where none is given here. `generate` is `store.build`, from parameters to
proved and hashed Arrow files; `x floor` is that over the time of a plain write of as many bytes to the same disk by the
same process. `open` is `store.build` once more, which hashes every file, and `read` goes through all blocks. `corrupt`
draws corrupted prompts for 300 of the first held-out split, sorting the index included. `memory` is the peak of the
process up to `read`, imports included. Ends with status 1 when a limit is broken.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config.registry import load, names

# name -> corpus, parameters, most seconds to generate, most MB of memory
SIZED: dict[str, tuple[str, dict[str, Any], float | None, float | None]] = {
    "composition": ("composition", {"ratio": 18.0}, 5, None),
    "composition_10k": ("composition", {"num_entities": 10_000, "ratio": 18.0}, 30, 2000),
    "comparison": ("comparison", {"ratio": 12.6}, None, None),
    "findcats": ("findcats", {"length": 300, "train_size": 20_000, "test_size": 1_000}, None, None),
    "triples": ("triples", {"invented": 1000}, None, None),
    "babi": ("babi", {"tasks": tuple(range(1, 21))}, None, None),
    "grammar": ("grammar", {"things": 10, "colours": 8, "prepositions": 5, "train_size": 6000}, None, None),
    "word_removal": ("word_removal", {"tasks": ("remove", "write")}, None, None),
    "k_hop": ("k_hop", {"most_hops": 40}, None, None),
    "question_formation": ("question_formation", {"train_rows": 100_000, "gen_rows": 10_000}, None, None),
    "tense_reinflection": ("tense_reinflection", {"train_rows": 100_000, "gen_rows": 10_000}, None, None),
    "dyck": ("dyck", {"train_rows": 200_000, "id_rows": 20_000, "gen_rows": 20_000}, None, None),
}
ENTRIES = {entry for entry, *_ in SIZED.values()}
CASES = SIZED | {name: (name, {}, None, None) for name in names("corpora") if name not in ENTRIES}


def published(folder: Path) -> dict[str, Any]:
    """Files of Wang et al. 2024 as this package writes them, of the default graph."""
    from pipeline.corpora.composition import Composition
    from pipeline.corpora.published import write_published
    from pipeline.corpora.store import build

    write_published(build(Composition()), folder)
    return {"path": str(folder)}


def questions(folder: Path) -> dict[str, Any]:
    """Sums in three levels, where the package that draws questions is not installed."""
    if find_spec("reasoning_gym"):
        return {}
    sums = [(a, b) for a in range(100) for b in range(100)]
    rows = [f"How much is {a} + {b}?,{a + b},{min((a + b) // 60, 2)}" for a, b in sums]
    (folder / "questions.csv").write_text("\n".join(["question,answer,level", *rows]), encoding="utf-8")
    return {"path": str(folder / "questions.csv"), "harder_levels": 1}


FROM_FILES: dict[str, Callable[[Path], dict[str, Any]]] = {"published": published, "reasoning_gym": questions}


def measure(name: str) -> dict[str, float]:
    """Measures one case in this process."""
    entry, parameters, _, _ = CASES[name]
    with tempfile.TemporaryDirectory() as files:
        prepared = FROM_FILES[entry](Path(files)) if entry in FROM_FILES else {}
        return _measured(load("corpora", entry, "corpus")(**parameters, **prepared))


def _measured(corpus: Any) -> dict[str, float]:
    from pipeline.circuits._counterfactuals import Neighbours
    from pipeline.corpora.store import build
    from pipeline.utils.draws import Draws

    clock = [time.perf_counter()]
    stored = build(corpus)
    clock.append(time.perf_counter())
    build(corpus)
    clock.append(time.perf_counter())
    checksum = sum(int(block.prompts.sum()) for split in stored.sizes for block in stored.blocks(split))
    clock.append(time.perf_counter())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with contextlib.suppress(LookupError):  # where no prompt differs from another in one token
        held_out = next(stored.blocks(corpus.held_out[0]))
        Neighbours(stored).corrupt(held_out.take(slice(0, 300)), Draws(0, "benchmark"))
    clock.append(time.perf_counter())
    written = sum(file.stat().st_size for file in stored.folder.iterdir())
    content = bytes(written)
    clock.append(time.perf_counter())
    (stored.folder / "plain").write_bytes(content)
    clock.append(time.perf_counter())
    generate, opened, read, corrupt, _, floor = (after - before for before, after in itertools.pairwise(clock))
    assert checksum > 0
    return {
        "rows": sum(stored.sizes.values()), "bytes": written, "memory": memory,
        "generate": generate, "open": opened, "read": read, "corrupt": corrupt, "floor": floor,
    }  # fmt: skip


def main(wanted: list[str]) -> int:
    from machine import note

    head = (
        "case",
        "rows",
        "MB",
        "generate s",
        "rows/s",
        "x floor",
        "open s",
        "read s",
        "corrupt s",
        "memory MB",
        "limit",
    )
    widths = [max(len(word), 9) for word in head]
    widths[0] = max(map(len, CASES))
    print("  ".join(word.rjust(width) for word, width in zip(head, widths)))
    broken = 0
    if unknown := [name for name in wanted if name not in CASES]:
        print(f"there is no case {unknown[0]!r}; allowed: {', '.join(CASES)}", file=sys.stderr)
        return 2
    for name in wanted or CASES:
        _, _, seconds, memory = CASES[name]
        with tempfile.TemporaryDirectory() as cache:
            result = subprocess.run(
                [sys.executable, __file__, "--measure", name],
                env=os.environ | {"GROKLAB_CACHE": cache},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        found = json.loads(result.stdout)
        note(f"corpus {name}", found["generate"], "plain write", found["floor"], "s")
        over = found["generate"] > (seconds or float("inf")) or found["memory"] > (memory or float("inf"))
        broken += over
        limits = [f"{limit:g} {unit}" for limit, unit in ((seconds, "s"), (memory, "MB")) if limit]
        row = (
            name, f"{found['rows']:,}", f"{found['bytes'] / 1e6:.1f}", f"{found['generate']:.2f}",
            f"{found['rows'] / found['generate']:,.0f}", f"{found['generate'] / found['floor']:.0f}",
            f"{found['open']:.3f}", f"{found['read']:.3f}", f"{found['corrupt']:.2f}", f"{found['memory']:.0f}",
            ("BROKEN: " * over + ", ".join(limits)) or "-",
        )  # fmt: skip
        print("  ".join(word.rjust(width) for word, width in zip(row, widths)), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        sys.exit(main(sys.argv[1:]))
