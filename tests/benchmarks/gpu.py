"""Everything that a GPU is wanted for, in one command and in the order of what matters, in so many minutes.

    python tests/benchmarks/gpu.py [--minutes 9] [--wheels FOLDER] [--output FILE] [--small]

Stages, each a process of its own with a limit of time:

- `environment`: card, driver, versions, and what a matrix product and a copy reach.
- `tests`: those marked `gpu`.
- `step`: the training step beside seven others (`bench_step.py`).
- `profile`: kernels, gaps and the share of the floor of our step (`profile_step.py`).
- `stack`: 1, 8, 64 and 256 quickstarts as one step, beside one alone (`bench_stack.py`).
- `train`: two-hop composition with the bridge said, at the paper's size, for what is left of the time.

What is found is written to one JSON file after every stage. A stage that fails, or is out of time, is recorded with its
last lines, and the next one begins. FOLDER has wheels of packages that the machine lacks; they are installed beside it.
`--small` runs the same on a CPU in a minute, with numbers that mean nothing. On a bare machine: `make gpu
PYTHON=python3 WHEELS=FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
SAID = [str(ROOT / "recipes" / "grok_gpt2.yaml"), "--corpus.ratio=7.2", "--corpus.bridge=said", "--circuits={}"]
PAPER = ["--max_steps=20000", "--eval_steps=500", "--save_steps=2000", "--checkpoints.every=[]", "--stop_when=never"]
LITTLE = ["--corpus.num_entities=30", "--corpus.num_relations=6", "--corpus.out_degree=6", "--corpus.ratio=3"]
LITTLE += ["--model.n_layer=1", "--model.n_embd=32", "--model.n_head=4", "--global_batch_size=32", "--use_cpu=true"]
LITTLE += ["--max_steps=4", "--eval_steps=2", "--save_steps=4", "--logging_steps=2", "--checkpoints.every=[]"]
LAST_LINES = 2000  # characters of a stage's output that are kept


@dataclass(frozen=True)
class Stage:
    """A command, the share of the time that is left which it may take, and what is read of what it leaves behind."""

    command: list[str]
    share: float
    read: Callable[[], Any]
    signal: bool = False  # whether it is told to stop when its time is over, and saves


def stages(folder: Path, small: bool) -> dict[str, Stage]:
    """The stages by name, which run and write in a folder: what stands there is theirs, and of no earlier run."""
    python, flag = sys.executable, ["--small"] if small else []
    junit, run = folder / "tests.xml", folder / "train"
    pytest = [python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={junit}"]
    pytest += [str(ROOT / "tests" / "training" / "test_writer.py") if small else str(ROOT / "tests")]
    rounds = ["--rounds", "1", "--seconds", "0.01"] if small else ["--rounds", "3", "--seconds", "0.5"]

    def found(name: str) -> Callable[[], Any]:
        """Reads the JSON of a benchmark."""
        return lambda: json.loads(next((folder / "runs" / "benchmarks").glob(f"{name}-*.json")).read_text())

    train = [python, "-m", "pipeline.run", *SAID, *(LITTLE if small else PAPER), f"--output_dir={run}"]
    return {
        "environment": Stage([python, str(HERE / "gpu_speed.py")], 0.2, found("machine")),
        "tests": Stage(pytest, 0.25, lambda: _counts(junit)),
        "step": Stage([python, str(HERE / "bench_step.py"), *rounds, *flag], 0.5, found("step")),
        "profile": Stage([python, str(HERE / "profile_step.py"), *flag], 0.3, found("profile")),
        "stack": Stage([python, str(HERE / "bench_stack.py"), *flag], 0.3, found("stack")),
        "train": Stage(train, 1.0, lambda: _curve(run), signal=True),
    }


def _counts(junit: Path) -> dict[str, Any]:
    """Tests, failures and skips, and the names of those that failed."""
    from xml.etree import ElementTree

    suite = ElementTree.parse(junit).getroot()[0]
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    return {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")} | {"failed": failed}


def _curve(run: Path) -> list[dict[str, float]]:
    """Exact match of every split, and seconds, at each evaluation."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [line for line in lines if any(key.startswith("eval_") for key in line)]
    return [{key: line[key] for key in line if key == "step" or key.endswith("exact_match")} for line in kept]


def perform(stage: Stage, seconds: float, folder: Path) -> dict[str, Any]:
    """Runs a stage in a folder: its status, its seconds, and what it found, or its last lines where it failed."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            stage.command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        status: int | str
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = f"stopped after {seconds:.0f} s"
            if stage.signal:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    status = f"killed after {seconds:.0f} s, as it did not save in 30 s"
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
        result: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
        out.seek(0)
        said = out.read().decode(errors="replace")
    try:
        result["found"] = stage.read()
    except (OSError, ValueError, LookupError, StopIteration) as error:
        result["found"], result["error"] = None, f"{type(error).__name__}: {error}"
    if status != 0:
        result["last_lines"] = said[-LAST_LINES:]
    return result


def install(wheels: Path, folder: Path) -> None:
    """Installs wheels beside what the machine has, for this process's children."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *map(str, sorted(wheels.glob("*.whl")))], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def main() -> int:
    parser = argparse.ArgumentParser(description="What a GPU is wanted for, in the order of what matters.")
    parser.add_argument("--minutes", type=float, default=9, help="for everything together")
    parser.add_argument("--wheels", type=Path, help="folder with wheels of packages that this machine lacks")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gpu.json", help="what is written")
    parser.add_argument("--only", default="", help="stages, with commas")
    parser.add_argument("--small", action="store_true", help="numbers that run on a CPU in a minute, and mean nothing")
    chosen = parser.parse_args()
    deadline = time.monotonic() + 60 * chosen.minutes
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="groklab-gpu-") as place:
        folder = Path(place)
        if chosen.wheels:
            install(chosen.wheels, folder / "packages")
        known = stages(folder, chosen.small)
        wanted = chosen.only.split(",") if chosen.only else list(known)
        if unknown := sorted(set(wanted) - set(known)):
            parser.error(f"--only {unknown[0]}: no such stage; allowed: {', '.join(known)}")
        results: dict[str, Any] = {}
        for name in wanted:
            left = deadline - time.monotonic() - 40  # in which what is running saves, and this ends
            if left <= 0:
                print(f"{name}: no time is left", flush=True)
                results[name] = {"status": "not run: no time was left"}
                continue
            print(f"{name}: at most {left * known[name].share:.0f} s", flush=True)
            results[name] = perform(known[name], left * known[name].share, folder)
            print(f"{name}: {results[name]['status'] or 'done'}, {results[name]['seconds']:.0f} s", flush=True)
            chosen.output.parent.mkdir(parents=True, exist_ok=True)
            chosen.output.write_text(json.dumps(results, indent=1) + "\n")
    print(chosen.output)
    return int(any(result["status"] != 0 for name, result in results.items() if name != "train"))


if __name__ == "__main__":
    sys.exit(main())
