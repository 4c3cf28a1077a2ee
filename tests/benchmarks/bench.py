"""All benchmarks as one table, beside what the history has of this processor: `make bench`, `make bench QUICK=1`.

    python tests/benchmarks/bench.py [--quick] [--record]

Each line is a time of ours beside a rival's in the same run, their ratio, and the share of the floor where there is
one. A ratio that is more than 3 % below the last one recorded on this processor is named as slower. `--record` appends
what was found, with its revision, to `results/history.jsonl`. Ends with status 1 when a benchmark broke a limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import LINES, processor

from pipeline.runs.environment import describe_environment

HERE = Path(__file__).parent
HISTORY = HERE / "results" / "history.jsonl"
SLOWER = 0.97  # of the ratio that was recorded last
# script -> its words, and those of a quick look; None where a quick look leaves it out
SCRIPTS: dict[str, tuple[list[str], list[str] | None]] = {
    "step": (["--rounds", "3"], ["--rounds", "3", "--seconds", "0.3", "--only", "2 x 128", "--without", "reference"]),
    "run": ([], ["startup", "overhead", "--rounds", "3"]),
    "circuits": ([], ["ig", "--rounds", "2"]),
    "corpora": ([], ["composition", "comparison"]),
    "saving": ([], None),
    "stack": (["--runs", "1,4"], None),
}
Key = tuple[str, str]  # a case, and what it is measured against


def measure(script: str, words: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Runs one script; returns the lines it noted and its status. What it says goes to stderr."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines"
        command = [sys.executable, str(HERE / f"bench_{script}.py"), *words]
        status = subprocess.run(command, env={**os.environ, LINES: str(lines)}, stdout=sys.stderr).returncode
        noted = lines.read_text().splitlines() if lines.exists() else []
    return [{"bench": script, **json.loads(line)} for line in noted], status


def last_ratios(history: Path, where: str, quick: bool) -> dict[Key, float]:
    """The newest recorded ratio of each case on a processor."""
    found: dict[Key, float] = {}
    for text in history.read_text().splitlines() if history.exists() else []:
        entry = json.loads(text)
        if (entry["processor"], entry["quick"]) == (where, quick):
            found |= {(line["case"], line["against"]): line["ratio"] for line in entry["lines"]}
    return found


def table(lines: list[dict[str, Any]], before: dict[Key, float]) -> list[str]:
    """The lines of the table, with what was recorded before."""
    rows = [("case", "ours", "against", "", "ratio", "of floor", "was")]
    for line in lines:
        was = before.get((line["case"], line["against"]))
        share = f"{line['share']:.0%}" if line["share"] else ""
        then = "" if was is None else f"{was:.2f}{' SLOWER' * (line['ratio'] < SLOWER * was)}"
        numbers = (f"{line[key]:.3g} {line['unit']}" for key in ("ours", "theirs"))
        ours, theirs = numbers
        rows.append((line["case"], ours, line["against"], theirs, f"{line['ratio']:.2f}", share, then))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="All benchmarks as one table, beside the history.")
    parser.add_argument("--quick", action="store_true", help="a look in under two minutes")
    parser.add_argument("--record", action="store_true", help=f"append the result to {HISTORY.name}")
    chosen = parser.parse_args(argv)
    lines: list[dict[str, Any]] = []
    broken, began = [], time.monotonic()
    for number, (script, (words, quick)) in enumerate(SCRIPTS.items(), 1):
        if chosen.quick and quick is None:
            continue
        print(f"[{number}/{len(SCRIPTS)}] bench_{script}.py, {time.monotonic() - began:.0f} s so far", file=sys.stderr)
        noted, status = measure(script, (quick or []) if chosen.quick else words)
        lines += noted
        broken += [script] * (status != 0)
    where = processor()
    print("\n".join(table(lines, last_ratios(HISTORY, where, chosen.quick))))
    print(f"{where}, {time.monotonic() - began:.0f} s{', a limit is broken: ' * bool(broken)}{', '.join(broken)}")
    if chosen.record:
        told = describe_environment()
        entry = {key: told[key] for key in ("started", "revision", "device")}
        entry |= {"torch": told["packages"]["torch"], "processor": where, "quick": chosen.quick, "lines": lines}
        with HISTORY.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        print(HISTORY)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
