"""Runs whose update is compiled: as transformers trains, the bits of a run that goes on, and when it is not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from pipeline.kernels import native_code
from pipeline.runs.metrics import read_history
from pipeline.training import loop
from pipeline.training.trainer import GrokTrainer
from tests.tiny import COMPOSITION, RECIPE
from tests.training.test_loop import CALM, LONG, curves, trained
from tests.training.test_trainer import trainer_of

MODELS = {
    "gpt2": "name: gpt2",
    "parallel": "name: pythia",
    "sequential": "name: pythia, parallel_residual: false, tie_word_embeddings: true, rotary_pct: 1",
}


@pytest.fixture(autouse=True)
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a run of a second is worth a compiler."""
    monkeypatch.setattr(loop, "PAYS", 0.0)


def calls_of(trainer: GrokTrainer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of the compiled code a trainer calls, to be looked at later."""
    called: list[str] = []
    compiled: Any = trainer.loop.compiled
    for name in ("backward", "update"):
        usual = getattr(compiled, name)
        monkeypatch.setattr(
            compiled,
            name,
            lambda *args, name=name, usual=usual, **kwargs: called.append(name) or usual(*args, **kwargs),
        )
    return called


@pytest.mark.parametrize("loss", ["cross_entropy", "stablemax"])
@pytest.mark.parametrize("model", MODELS)
def test_it_trains_as_transformers_does(model: str, loss: str, tmp_path: Path) -> None:
    """Rows of two lengths, in two micro-batches, whose losses and norms are compared at each of 200 steps."""
    objective = ("--objective", f"{{name: next_token, loss: {loss}}}")
    words = (*LONG, *CALM[COMPOSITION], "--per_device_train_batch_size", "16", *objective)
    text = COMPOSITION.replace("name: gpt2", MODELS[model])
    ours = trained(tmp_path / "ours", text, *words)
    assert ours.loop.compiled is not None and not ours.notes
    stock = trained(tmp_path / "stock", text, *words, "--fast", "false")
    assert stock.loop.compiled is None
    lines, expected = curves(tmp_path / "ours"), curves(tmp_path / "stock")
    assert len(lines) == len(expected) == 200
    for one, other in zip(lines, expected):
        assert one[:1] + one[2:] == pytest.approx(other[:1] + other[2:], rel=1e-4)
        assert one[1] == pytest.approx(other[1], rel=1e-3)
    assert lines[-1][0] < 0.7 * lines[0][0]
    states = [trainer.optimizer.state_dict() for trainer in (ours, stock)]
    assert [state["param_groups"] for state in states[:1]] == [state["param_groups"] for state in states[1:]]
    assert {key: {*parts} for key, parts in states[0]["state"].items()} == {
        key: {*parts} for key, parts in states[1]["state"].items()
    }


@pytest.mark.parametrize(("model", "optimizer"), [*((model, "{}") for model in MODELS), ("gpt2", "{grokfast: {}}")])
def test_a_run_that_goes_on_ends_with_the_bits_of_one_that_did_not_stop(
    model: str, optimizer: str, tmp_path: Path
) -> None:
    """With dropout, whose masks follow from the seed and the step."""
    text = RECIPE.replace("name: gpt2", MODELS[model]) + f"optimizer: {optimizer}\n"
    straight = trained(tmp_path / "straight", text, "--save_steps", "12", "--model.dropout", "0.3")
    (tmp_path / "parts").mkdir()
    parts = trainer_of(tmp_path / "parts", text, "--save_strategy", "no", "--model.dropout", "0.3")
    parts.train(resume_from_checkpoint=str(tmp_path / "straight" / "run" / "checkpoint-12"))
    other = trained(tmp_path / "other", text, "--save_strategy", "no", "--model.dropout", "0.3", "--seed", "1",
                    "--data_seed", "42")  # fmt: skip
    assert parts.loop.compiled is not None and parts.state.global_step == 24
    assert all(map(torch.equal, parts.model.parameters(), straight.model.parameters()))
    assert not any(map(torch.equal, other.model.parameters(), straight.model.parameters()))


def test_only_what_it_computes_goes_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*words: str) -> bool:
        return trainer_of(tmp_path, RECIPE, *words).loop.compiled is not None

    assert compiled()
    assert compiled("--objective", "{name: next_token, loss: stablemax}", "--output_dir", str(tmp_path / "stablemax"))
    for words in (
        ("--fast", "false"),
        ("--objective", "{name: next_token, label_smoothing: 0.1}"),
        ("--bf16", "true", "--use_cpu", "true"),
    ):
        (tmp_path / "run" / "recipe.yaml").unlink(missing_ok=True)
        assert not compiled(*words, "--output_dir", str(tmp_path / "_".join(words).replace("/", "_")[:40])), words
    widths = {width: ("--model.n_embd", str(width), "--output_dir", str(tmp_path / str(width))) for width in (256, 258)}
    assert [compiled(*words) for words in widths.values()] == [True, False]
    neox = ("--model", "{name: pythia, preset: pythia-31m, n_layer: 1}", "--output_dir", str(tmp_path / "neox"))
    assert compiled(*neox) and not compiled(*neox, "--model.n_embd", "264")
    monkeypatch.setattr(loop, "PAYS", 20.0)
    short = trainer_of(tmp_path, RECIPE, "--output_dir", str(tmp_path / "short"))
    assert short.loop.compiled is None and not short.notes  # there is nothing to say of seconds


def test_a_machine_without_a_compiler_trains_by_torch_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_code, "COMPILER", "g++-of-nobody")
    trainer = trained(tmp_path / "without", RECIPE, "--save_strategy", "no")
    assert trainer.notes == ["the step is not compiled: there is no g++-of-nobody"]
    assert [line for line in read_history(tmp_path / "without" / "run") if "loss" in line]


def test_gradients_that_are_changed_and_other_optimizers_go_on_from_the_compiled_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Changes of the gradients come between clipping and AdamW; the optimizer's first step makes its state.
    for optimizer, updates in (
        ("{grokfast: {}}", 7),
        ("{orthogonal: {}, grokfast: {average: ma}}", 7),
        ("{muon: {}}", 0),
    ):
        words = (*LONG, *CALM[RECIPE], "--max_steps", "8", "--optimizer", optimizer)
        (tmp_path / optimizer).mkdir()
        trainer = trainer_of(tmp_path / optimizer, RECIPE, *words)
        trainer.args.eval_on_start = False
        called = calls_of(trainer, monkeypatch)
        trainer.train()
        assert called.count("backward") == 8 and called.count("update") == updates
        trained(tmp_path / f"{optimizer}-stock", RECIPE, *words, "--fast", "false")
        for one, other in zip(curves(tmp_path / optimizer), curves(tmp_path / f"{optimizer}-stock"), strict=True):
            assert one == pytest.approx(other, rel=1e-3)


class Nosy(TrainerCallback):
    """Reads the gradients before the step."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.norms.append(float(torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm()))


def test_what_callbacks_see_and_do_is_as_with_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback in the middle of an update reads clipped gradients; a hook or another rate of dropout is obeyed."""
    trainer = trainer_of(tmp_path, RECIPE, "--max_grad_norm", "0.1", "--save_strategy", "no")
    called, nosy = calls_of(trainer, monkeypatch), Nosy()
    trainer.add_callback(nosy)
    trainer.train()
    assert called == ["backward"] * 24 and nosy.norms == pytest.approx([0.1] * 24, rel=1e-3)
    handle = trainer.model.transformer.h[0].mlp.register_forward_hook(lambda *inputs: None)
    assert trainer.loop._compiled_now() is None
    handle.remove()
    assert trainer.loop._compiled_now() is not None
    trainer.model.transformer.h[0].mlp.dropout.p = 0.5
    assert trainer.loop._compiled_now() is None
    trainer.model.transformer.h[0].attn.resid_dropout.p = 0.5
    assert trainer.loop._compiled_now() is not None
    trainer.model.transformer.wte.weight.requires_grad_(False)
    assert trainer.loop._compiled_now() is None


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    trainer = trained(tmp_path, RECIPE, "--learning_rate", "1e30", "--save_strategy", "no", "--max_grad_norm", "0")
    assert trainer.loop.compiled is not None and "not finite" in (trainer.saving.failure or "")
