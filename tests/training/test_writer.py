"""Weights are written beside training: what they were when they were kept, whole, and errors are heard of."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.runs import checkpoints
from pipeline.runs.manifest import Manifest
from pipeline.training.writer import Writer
from tests.tiny import RECIPE, run_here, write_recipe
from tests.training.test_trainer import trainer_of


def test_training_goes_on_while_a_step_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, may_write = checkpoints.keep, threading.Event()

    def slow_disk(*inputs: object) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert may_write.wait(20)
        usual(*inputs)

    monkeypatch.setattr(checkpoints, "keep", slow_disk)
    trainer = trainer_of(tmp_path, RECIPE)
    before = {name: weight.detach().clone() for name, weight in trainer.model.state_dict().items()}
    started = time.perf_counter()
    trainer.keep_step({"eval_id_exact_match": 0.5, "eval_seconds": 3.0})
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(1.0)  # training goes on
    assert time.perf_counter() - started < 5 and not (tmp_path / "run" / "steps").exists()
    may_write.set()
    trainer.saving.writer.wait()
    # Written are the weights of the moment when they were kept.
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "steps" / "step0")
    for name, weight in model.state_dict().items():
        assert weight.equal(before[name]), name
    kept = Manifest.load(tmp_path / "run").kept[0]
    assert kept.damage(tmp_path / "run") is None and kept.metrics == {"eval_id_exact_match": 0.5}
    # A tied weight is stored once.
    assert "lm_head.weight" not in load_file(tmp_path / "run" / "steps" / "step0" / "model.safetensors")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ZeroDivisionError("a mistake")])
def test_a_crash_of_the_writer_ends_the_run(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = checkpoints.keep

    def broken(run: Path, step: int, *rest: object) -> None:
        if step == 4:
            raise error
        usual(run, step, *rest)

    monkeypatch.setattr(checkpoints, "keep", broken)
    recipe = write_recipe(tmp_path, RECIPE.replace("save_steps: 6", "save_steps: 100"))
    if isinstance(error, OSError):
        assert run_here(recipe) == 1
        assert "No space left on device" in capsys.readouterr().err
    else:
        with pytest.raises(ZeroDivisionError, match="a mistake"):
            run_here(recipe)
    manifest = Manifest.load(tmp_path / "run")
    assert 2 in manifest.kept and 4 not in manifest.kept
    assert not manifest.finished and 24 not in manifest.kept


def test_jobs_are_done_in_order_and_their_errors_are_raised_once() -> None:
    writer, done = Writer(), []
    writer.start(lambda: done.append(1))
    writer.start(lambda: done.append(2))
    writer.wait()
    assert done == [1, 2]
    writer.start(lambda: [].pop())
    with pytest.raises(IndexError):
        writer.start(lambda: done.append(3))
    writer.check()
    writer.wait()
    assert done == [1, 2]


def test_a_copy_keeps_ties_and_uses_its_memory_again() -> None:
    writer, weight = Writer(), torch.randn(3, 4)
    first, whole = writer.copy({"a": weight, "b": weight, "c": weight[:2]})
    whole()
    assert first["a"] is first["b"] and first["a"].equal(weight) and first["c"].equal(weight[:2])
    weight.zero_()
    assert not first["a"].equal(weight)
    second, _ = writer.copy({"a": weight, "c": weight[:2]})
    assert second["a"].data_ptr() == first["a"].data_ptr() and second["a"].equal(weight)


@pytest.mark.gpu
def test_a_copy_from_a_gpu_is_of_its_moment() -> None:
    writer, weight = Writer(), torch.zeros(1 << 26, device="cuda")
    copy, whole = writer.copy({"a": weight})
    for _ in range(20):
        weight.add_(1.0)
    whole()
    assert copy["a"].is_pinned() and not copy["a"].any()


def test_the_log_states_what_training_waited_for(tmp_path: Path) -> None:
    from pipeline.runs.metrics import read_history

    assert run_here(write_recipe(tmp_path)) == 0
    shares = [line for line in read_history(tmp_path / "run") if "evaluation_share" in line]
    evaluated = [line["step"] for line in read_history(tmp_path / "run") if "eval_id_exact_match" in line]
    assert [line["step"] for line in shares] == evaluated
    assert all(0 < line["evaluation_share"] < 1 and 0 <= line["saving_share"] < 1 for line in shares)
