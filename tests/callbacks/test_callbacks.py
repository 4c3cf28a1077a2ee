"""Every callback in the room keeps the contract; each does what it says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from pipeline.callbacks import console
from pipeline.callbacks.clipped_rows import ClippedRows
from pipeline.callbacks.console import sparkline
from pipeline.config.recipe import read_recipe
from pipeline.runs.metrics import read_history
from pipeline.training.session import prepare, train
from pipeline.training.trainer import GrokTrainer
from tests.tiny import RECIPE, run_here, write_recipe


@pytest.fixture
def trainer(tmp_path: Path) -> GrokTrainer:
    return prepare(read_recipe(write_recipe(tmp_path), ["--output_dir", str(tmp_path / "run")]))


def test_weight_norm(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("callbacks: {", "callbacks: {weight_norm: {per_parameter: true}, "))
    trainer = prepare(read_recipe(recipe, ["--output_dir", str(tmp_path / "run"), "--max_steps", "4"]))
    train(trainer)
    last = [line for line in read_history(tmp_path / "run") if "weight_norm" in line][-1]
    weights = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])
    assert last["weight_norm"] == pytest.approx(weights.norm().item(), rel=1e-6)
    embedding = trainer.model.transformer.wte.weight
    assert last["weight_norm/transformer.wte.weight"] == pytest.approx(embedding.norm().item(), rel=1e-6)


def test_metrics_log_writes_what_json_can_say(trainer: GrokTrainer, tmp_path: Path) -> None:
    trainer.log({"loss": float("nan"), "grad_norm": float("inf"), "learning_rate": 0.1})
    line = (tmp_path / "run" / "metrics.jsonl").read_text()
    facts = json.loads(line, parse_constant=pytest.fail)
    assert facts["loss"] is None and facts["grad_norm"] is None and facts["learning_rate"] == 0.1 and facts["step"] == 0


def test_the_seconds_go_on_after_a_restart(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    run_here(recipe, "--max_steps", "12")
    before = read_history(tmp_path / "run")
    run_here(recipe)
    after = read_history(tmp_path / "run")
    assert [line["seconds"] for line in after] == sorted(line["seconds"] for line in after)
    assert after[-1]["seconds"] > before[-1]["seconds"]


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([0, 0.5, 1]) == "▁▅█"
    assert sparkline([0.0] * 50 + [1.0] * 50, width=10) == "▁▁▁▁▁█████"


def test_plain_lines_tell_every_split_and_the_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_here(write_recipe(tmp_path), "--max_steps", "12")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in lines] == [f"{step}/12" for step in (0, 1, 2, 4, 6, 8)] + ["10/12", "12/12"]
    assert all("train 0." in line and "id 0." in line for line in lines)
    assert "left" in lines[-2] and "left" not in lines[-1]


def test_a_slow_run_shows_that_it_is_alive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.callbacks.console.HEARTBEAT", 0.0)
    run_here(write_recipe(tmp_path), "--max_steps", "6", "--checkpoints.powers_of_two", "false")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in lines] == [f"{step}/6" for step in range(7)]
    assert ["id 0." in line for line in lines] == [True, *[False] * 5, True]


def test_progress_is_quiet_on_request_and_on_other_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(write_recipe(tmp_path), "--max_steps", "2", "--callbacks.console.style", "off")
    assert "step 1" not in capsys.readouterr().out


def test_the_loss_and_the_time_left_are_those_of_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the last log was before, and where patience ends training long before the last step."""
    words = ["--output_dir", str(tmp_path / "run"), "--stop_when", "grokked"]
    trainer = prepare(read_recipe(write_recipe(tmp_path), words))
    progress = console.Console(style="plain", seconds=0)
    progress.attach(trainer)
    progress = trainer.callback_handler.callbacks[-1]
    monkeypatch.setattr(trainer, "is_in_train", True)
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=100_000)
    progress.on_train_begin(trainer.args, state, trainer.control)
    monkeypatch.setattr(progress, "_speed", lambda state: 10.0)
    state.global_step = 150
    progress.on_log(trainer.args, state, trainer.control, {"loss": 2.0})
    state.global_step = 175
    progress._line(trainer.args, state)
    metrics = {"eval_train_exact_match": 1.0, "eval_id_exact_match": 0.1, "eval_train_loss": 0.5}
    for match in (0.1, 1.0):
        metrics["eval_id_exact_match"] = match
        trainer.grok.update(state.global_step, metrics)
        progress.on_evaluate(trainer.args, state, trainer.control, metrics)
    waits, memorized, generalized = capsys.readouterr().out.splitlines()[-3:]
    assert "  loss 2.0000 up to step 150  " in waits and waits.endswith(" 2.8 h left")
    assert "  loss 0.5000  train 1.000  id 0.100  " in memorized and " 2.8 h left" in memorized
    patience, every = trainer.recipe.options.stop_patience, trainer.args.eval_steps
    assert f"  {(patience - 1) * every / 10:.1f} s left" in generalized


def test_the_live_display(trainer: GrokTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = trainer.evaluate()
    screen = io.StringIO()
    progress = console.Console(style="live")
    progress._console = Console(file=screen, force_terminal=True, width=100)
    progress.attach(trainer)
    joined = trainer.callback_handler.callbacks[-1]
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=10)
    monkeypatch.setattr(trainer, "is_in_train", True)
    joined.on_train_begin(trainer.args, state, trainer.control)
    for step in (0, 5, 10):
        state.global_step = step
        metrics = {**metrics, "eval_train_exact_match": 1.0, "eval_id_exact_match": step / 10}
        trainer.grok.update(step, metrics)
        joined.on_step_end(trainer.args, state, trainer.control)
        joined.on_evaluate(trainer.args, state, trainer.control, metrics)
    joined.on_train_end(trainer.args, state, trainer.control)
    text = screen.getvalue()
    assert "10/10" in text and "▁▅█" in text and "held out" in text
    assert "groks at step 10" in text


def test_rows_of_weights_stay_within_a_norm(trainer: GrokTrainer) -> None:
    model, block = trainer.model, trainer.model.transformer.h[0].mlp
    with torch.no_grad():
        model.transformer.wte.weight.fill_(3.0)
        # GPT-2 keeps weights as (inputs, outputs): what an output reads is a column.
        block.c_fc.weight.fill_(0.01)[:, 1] = torch.linspace(0, 5, 16)
    ClippedRows(norm=2.0).on_step_end(None, None, None, model=model)
    expected = torch.full_like(block.c_fc.weight, 0.01)
    expected[:, 1] = torch.linspace(0, 5, 16) * 2 / float(np.linalg.norm(np.linspace(0, 5, 16)))
    torch.testing.assert_close(block.c_fc.weight.detach(), expected)
    assert model.lm_head.weight.eq(3.0).all()  # which is the embedding
    linear = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    linear.get_output_embeddings = lambda: None
    ClippedRows(norm=1.0).on_step_end(None, None, None, model=linear)
    torch.testing.assert_close(linear.weight.detach(), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
