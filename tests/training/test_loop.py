"""The fast step is equal to transformers' own, and says where it cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from pipeline.data import buckets as shapes
from pipeline.kernels import onednn as products
from pipeline.kernels.cuda_graph import INNER_EVENTS, Captured, why_not_captured
from pipeline.runs.metrics import read_history
from pipeline.training.trainer import GrokTrainer
from tests.tiny import COMPOSITION, RECIPE
from tests.training.test_trainer import trainer_of

EVENTS = (
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
    "on_epoch_end",
)
WATCHED = ("loss", "grad_norm", "learning_rate", "epoch")
# 200 steps in which every loss is logged; without dropout, whose random numbers the two ways draw differently.
LONG = ("--max_steps", "200", "--model.dropout", "0", "--logging_steps", "1", "--eval_strategy", "no")
LONG += ("--save_strategy", "no", "--callbacks.console.style", "off", "--checkpoints.powers_of_two", "false")
# A rate and orders of rows at which training does not blow rounding up: differences begin at 1e-7 in all of them.
LONG += ("--warmup_steps", "10", "--learning_rate", "2e-3")
CALM = {RECIPE: ("--data_seed", "42"), COMPOSITION: ("--data_seed", "0")}


def trained(folder: Path, text: str, *words: str) -> GrokTrainer:
    folder.mkdir(exist_ok=True)
    trainer = trainer_of(folder, text, *words)
    trainer.args.eval_on_start = False
    trainer.train()
    return trainer


def curves(folder: Path) -> list[list[float]]:
    return [[line[key] for key in WATCHED] for line in read_history(folder / "run") if "loss" in line]


@pytest.mark.parametrize("text", [RECIPE, COMPOSITION], ids=["group", "composition"])
@pytest.mark.parametrize("micro", [(), ("--per_device_train_batch_size", "4")], ids=["whole", "accumulated"])
def test_it_trains_as_transformers_does(text: str, micro: tuple[str, ...], tmp_path: Path) -> None:
    check_against_transformers(tmp_path, text, *micro)


def test_batches_that_are_cut_and_products_by_onednn_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "WORTH", 0.0)
    monkeypatch.setattr(products, "SMALL", 0)
    monkeypatch.setattr(products, "is_faster", lambda: True)
    fast = check_against_transformers(tmp_path, COMPOSITION)
    assert [shape.width for shape in fast.train_rows.cuts[1]] == [4, 5]
    assert [shape.tail for shape in fast.train_rows.cuts[1]] == [2, 2]
    assert any(isinstance(module, products.QuickConv1D) for module in fast.model.modules())


def check_against_transformers(tmp_path: Path, text: str, *micro: str) -> GrokTrainer:
    """Trains 200 steps in both ways, and compares every loss and norm; the trainer of the fast way."""
    fast = trained(tmp_path / "fast", text, *LONG, *CALM[text], *micro)
    stock = trained(tmp_path / "stock", text, *LONG, *CALM[text], *micro, "--fast", "false")
    assert fast.loop.is_own and not stock.loop.is_own and not fast.notes
    ours, theirs = curves(tmp_path / "fast"), curves(tmp_path / "stock")
    assert len(ours) == len(theirs) == 200
    for one, other in zip(ours, theirs):
        assert one[:1] + one[2:] == pytest.approx(other[:1] + other[2:], rel=1e-4)
        assert one[1] == pytest.approx(other[1], rel=1e-3)  # a norm adds up the rounding of all weights
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    # It learned, so that the equality says something.
    assert ours[-1][0] < 0.7 * ours[0][0]
    return fast


class Listener(TrainerCallback):
    """Writes down every event with its step."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def __getattribute__(self, name: str) -> Any:
        if name not in EVENTS:
            return super().__getattribute__(name)
        return lambda args, state, control, **kwargs: self.heard.append((name, state.global_step))


@pytest.mark.parametrize("micro", ["4", "16"])
def test_callbacks_hear_the_same_events(micro: str, tmp_path: Path) -> None:
    heard = []
    for fast in ("true", "false"):
        words = ("--fast", fast, "--max_steps", "9", "--per_device_train_batch_size", micro, "--save_strategy", "no")
        (tmp_path / fast).mkdir()
        trainer = trainer_of(tmp_path / fast, RECIPE, *words)
        listener = Listener()
        trainer.add_callback(listener)
        trainer.train()
        heard.append(listener.heard)
    assert heard[0] == heard[1]
    assert {name for name, _ in heard[0]} == set(EVENTS) - ({"on_substep_end"} if micro == "16" else set())


class Talker(TrainerCallback):
    """Logs after every step."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.log({"talk": 1.0})


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_callback_that_logs_takes_no_training_loss_away(fast: str, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, RECIPE, "--fast", fast, "--max_steps", "9", "--logging_steps", "3")
    trainer.add_callback(Talker(trainer))
    trainer.train()
    lines = read_history(trainer.recipe.output_dir)
    assert [line["step"] for line in lines if "loss" in line] == [1, 3, 6, 9]
    assert [line["step"] for line in lines if "talk" in line] == list(range(1, 10))


def test_what_keeps_the_own_loop_away_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.training.announcement import announcement

    trainer = trainer_of(tmp_path, RECIPE, "--include_num_input_tokens_seen", "all")
    assert not trainer.loop.is_own
    (note,) = trainer.notes
    assert "the Trainer's own loop is used: include_num_input_tokens_seen" in note
    assert note in announcement(trainer, None)


def test_what_cannot_be_captured(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, RECIPE)
    optimizer = trainer.create_optimizer()
    callbacks = trainer.callback_handler.callbacks

    class Gpu:
        device, world_size = torch.device("cuda"), 1

    args: Any = Gpu()
    assert why_not_captured(trainer.args, optimizer, callbacks, False) == "only CUDA has graphs"
    assert why_not_captured(args, optimizer, callbacks, False) is None  # nothing of a usual run
    assert "fused" in (why_not_captured(args, torch.optim.SGD(trainer.model.parameters()), callbacks, False) or "")
    for event in INNER_EVENTS:
        kind = type("Nosy", (TrainerCallback,), {event: lambda *args, **kwargs: None})
        assert f"Nosy acts in the middle of an update ({event})" in (
            why_not_captured(args, optimizer, [kind()], False) or ""
        )
    assert "differ so much in length" in (why_not_captured(args, optimizer, callbacks, True) or "")
    args.world_size = 2
    assert "between processes" in (why_not_captured(args, optimizer, callbacks, False) or "")


def test_a_step_on_a_gpu_says_once_why_it_is_no_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(tmp_path, RECIPE)
    trainer.create_optimizer()
    assert trainer.loop.captured is None and not capsys.readouterr().out  # nobody asks for a graph on a CPU
    del trainer.loop.captured

    class Several:
        device, world_size = torch.device("cuda"), 2

    monkeypatch.setattr(trainer, "args", Several())
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: True)
    assert trainer.loop.captured is None and trainer.loop.captured is None
    said = capsys.readouterr().out
    assert said == "updates are not captured as a CUDA graph: gradients are exchanged between processes\n"


@pytest.mark.gpu
@pytest.mark.parametrize("text", [RECIPE, COMPOSITION], ids=["group", "composition"])
def test_a_captured_update_trains_as_transformers_does(text: str, tmp_path: Path) -> None:
    words = (*LONG, "--use_cpu", "false", "--lr_scheduler_type", "linear")
    fast = trained(tmp_path / "fast", text, *words)
    assert isinstance(fast.loop.captured, Captured) and fast.loop.captured.graph is not None
    trained(tmp_path / "stock", text, *words, "--fast", "false")
    for one, other in zip(curves(tmp_path / "fast"), curves(tmp_path / "stock"), strict=True):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-3)


@pytest.mark.gpu
def test_a_captured_run_resumes(tmp_path: Path) -> None:
    straight = trained(tmp_path / "straight", RECIPE, "--max_steps", "24", "--save_steps", "12")
    checkpoint = tmp_path / "straight" / "run" / "checkpoint-12"
    (tmp_path / "parts").mkdir()
    parts = trainer_of(tmp_path / "parts", RECIPE, "--max_steps", "24", "--save_strategy", "no")
    parts.train(resume_from_checkpoint=str(checkpoint))
    for one, other in zip(parts.model.parameters(), straight.model.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
