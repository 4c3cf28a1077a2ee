"""What keeping a step costs when 10, 100 and 1,000 steps are kept already, beside writing the whole manifest anew.

python tests/benchmarks/bench_saving.py
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from machine import note

from pipeline.runs.checkpoints import keep
from pipeline.runs.manifest import Manifest

REPEATS = 30


def write(folder: Path) -> None:
    for name in ("model.safetensors", "config.json", "generation_config.json"):
        (folder / name).write_bytes(bytes(10_000))


def main() -> None:
    metrics = {f"eval_split{n}_{what}": 0.123456789 for n in range(6) for what in ("exact_match", "loss")}
    with tempfile.TemporaryDirectory() as folder:
        run, step, baseline = Path(folder), 0, None
        for count in (10, 100, 1000):
            while step < count:
                keep(run, step, write, metrics)
                step += 1
            ours, whole = [], []
            for _ in range(REPEATS):
                began = time.perf_counter()
                keep(run, step, write, metrics)
                ours.append(time.perf_counter() - began)
                step += 1
            for _ in range(REPEATS):
                manifest = Manifest.load(run)
                began = time.perf_counter()
                manifest.save(run)
                whole.append(time.perf_counter() - began)
            mine, other = statistics.median(ours), statistics.median(whole)
            baseline = baseline or mine
            note(f"keeping step {count}", mine, "the manifest anew", other, "s")
            print(
                f"{count:>5} kept: {mine * 1e3:6.1f} ms a step, {mine / baseline:4.2f} times that at 10; "
                f"writing the manifest anew {other * 1e3:6.1f} ms"
            )


if __name__ == "__main__":
    main()
