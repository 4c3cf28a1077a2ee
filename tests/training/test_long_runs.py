"""What a run of days costs: memory, logs and saving stay as they were in its first minutes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from transformers import TrainerCallback

from pipeline.config.recipe import read_recipe
from pipeline.runs.metrics import METRICS, last_line, read_lines, rewind_history
from pipeline.training.session import prepare, train
from tests.tiny import RECIPE, write_recipe


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch(TrainerCallback):
    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        step = state.global_step
        if step % 10_000 == 0:
            self.seen[step] = resident()


@pytest.mark.slow
def test_memory_is_flat_over_a_hundred_thousand_steps(tmp_path: Path) -> None:
    text = RECIPE.replace("every: [[10, null]]", "every: [[1000, null]]").replace("max_steps: 24", "max_steps: 100000")
    text = text.replace("eval_steps: 6", "eval_steps: 1000").replace("save_steps: 6", "save_steps: 5000")
    recipe = write_recipe(tmp_path, text.replace("logging_steps: 3", "logging_steps: 10"))
    trainer = prepare(read_recipe(recipe, ["--output_dir", str(tmp_path / "run")]))
    watch = Watch()
    trainer.add_callback(watch)
    train(trainer)
    print({step: f"{memory / 1e6:.1f} MB" for step, memory in watch.seen.items()})
    # 80,000 steps, 8,000 logged lines, 80 kept steps and 16 checkpoints later.
    assert watch.seen[100_000] - watch.seen[20_000] < 4e6


def test_a_million_lines_are_read_where_they_must_be(tmp_path: Path) -> None:
    """Starting again after 10^6 lines looks at the last ones, and at those of evaluations."""
    line = json.dumps({"step": 1000000, "seconds": 1.0, "loss": 0.123456789, "grad_norm": 0.5}) + "\n"
    with open(tmp_path / METRICS, "w") as file:
        for step in range(1, 1_000_001):
            file.write(line.replace("1000000", str(step), 1))
            if step % 100_000 == 0:
                file.write(json.dumps({"step": step, "seconds": 1.0, "eval_id_exact_match": 0.5}) + "\n")
    before = resident()
    assert last_line(tmp_path) == {"step": 1_000_000, "seconds": 1.0, "eval_id_exact_match": 0.5}
    assert sum(1 for _ in read_lines(tmp_path, "_exact_match")) == 10
    rewind_history(tmp_path, 999_990)
    assert last_line(tmp_path)["step"] == 999_990
    assert resident() - before < 20e6
