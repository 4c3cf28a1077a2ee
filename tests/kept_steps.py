"""Run folders with kept steps and checkpoints in them, whose weights are a few words."""

from __future__ import annotations

from pathlib import Path

from pipeline.runs.checkpoints import keep, seal


def write_weights(text: str = "weights") -> object:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_text(text)
        (folder / "config.json").write_text("{}")

    return write


def checkpoint(run: Path, step: int) -> None:
    folder = run / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_text(f"weights of {step}")
    (folder / "optimizer.pt").write_text("moments")


def torn(run: Path, step: int) -> None:
    """A checkpoint as a crash leaves it between the renaming of its draft and the line that lists it."""
    checkpoint(run, step)
    (run / f".draft-{step:016x}.checkpoint-{step}").mkdir()


def write_run(folder: Path) -> Path:
    """A run with three kept steps and two checkpoints."""
    for step in (0, 1, 2):
        keep(folder, step, write_weights(f"weights of {step}"), {"eval_id_exact_match": step / 10})
    for step in (5, 10, 15):
        checkpoint(folder, step)
        seal(folder, step, most=2)
    return folder
