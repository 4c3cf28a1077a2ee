"""What `make gpu` does runs on a CPU too, with numbers that mean nothing: a machine with a GPU is lent for minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
from gpu import Stage, perform
from profile_step import STEPS, describe

SCRIPT = ROOT / "tests" / "benchmarks" / "gpu.py"


def test_every_stage_leaves_its_numbers(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--small", "--output", str(output)]
    command += ["--only", "environment,step,profile,stack,train"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr + output.read_text()
    found = {name: stage["found"] for name, stage in json.loads(output.read_text()).items()}
    assert found["environment"]["found"]["flop_per_second"] > 1e8
    (step,) = found["step"]["found"]
    assert {*step["seconds_per_step"]} - {"jax scan"} == {"reference", "stock", "eager", "dispatched", "ours"}
    assert 0 < step["share_of_floor"] < 1
    (profiled,) = found["profile"]["found"]
    assert profiled["kernels_per_step"] > 20 and 0 <= profiled["share_in_gaps"] < 1
    assert [entry["runs"] for entry in found["stack"]["found"]] == [1, 2]
    assert all(entry["seconds_per_update"] > 0 < entry["alone"] for entry in found["stack"]["found"])
    assert [line["step"] for line in found["train"]] == [0, 2, 4] and "eval_ood_exact_match" in found["train"][-1]


def test_a_stage_that_fails_or_is_out_of_time_is_recorded(tmp_path: Path) -> None:
    def fails() -> None:
        raise FileNotFoundError("nothing is there")

    ended = perform(Stage([sys.executable, "-c", "print('word'); raise SystemExit(3)"], 1, fails), 60, tmp_path)
    assert ended["status"] == 3 and "word" in ended["last_lines"] and "nothing is there" in ended["error"]
    late = perform(Stage([sys.executable, "-c", "import time; time.sleep(60)"], 1, lambda: 7), 0.5, tmp_path)
    assert late["status"] == "stopped after 0 s" and late["found"] == 7 and late["seconds"] < 10


def test_gaps_are_where_nothing_runs() -> None:
    # In microseconds: two kernels that overlap, a gap of 2, and one that ends at 10.
    found = describe([(0.0, 4.0, "a"), (3.0, 6.0, "b"), (8.0, 10.0, "a")])
    assert found["share_in_gaps"] == pytest.approx(0.2)
    assert found["kernels_per_step"] == 3 / STEPS and found["seconds_per_step"] == pytest.approx(10e-6 / STEPS)
    assert found["microseconds_per_step"] == {"a": 6 / STEPS, "b": 3 / STEPS}
