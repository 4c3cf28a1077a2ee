"""Opposing signals against losses and Hessians that are computed in another way."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.callbacks._sharpness import sharpness
from pipeline.config.recipe import read_recipe
from pipeline.data.labels import IGNORED
from pipeline.data.rows import from_lists
from pipeline.models.gpt2 import Gpt2
from pipeline.objectives.next_token import NextToken
from pipeline.runs.metrics import read_history
from pipeline.training.loop import Loop
from pipeline.training.session import prepare, train
from tests.tiny import RECIPE, run_here, write_recipe

CALLBACKS = "{opposing_signals: {every: 2, top: 6, rows: 20, chunk: 7, iterations: 2}}"
TEXT = RECIPE.replace("{console: {style: plain, seconds: 0}}", CALLBACKS)


def test_a_quadratic_has_the_sharpness_of_its_matrix() -> None:
    """A model that is its own logits, whose loss is a quadratic form with known eigenvalues."""
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    hessian = matrix @ torch.diag(torch.tensor([3.0, -7.0, 1.0, 0.5, 2.0])) @ torch.linalg.inv(matrix)
    hessian = (hessian + hessian.T) / 2

    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5))

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            return SimpleNamespace(logits=self.weight.expand(*input_ids.shape, 5))

    def losses(logits_BAV: torch.Tensor, labels_BA: torch.Tensor) -> torch.Tensor:
        form = torch.einsum("bav,vw,baw->ba", logits_BAV, hessian, logits_BAV) / 2
        return form.masked_fill(labels_BA == IGNORED, 0.0)

    trainer: Any = SimpleNamespace(recipe=SimpleNamespace(objective=SimpleNamespace(token_losses=losses)))
    rows = from_lists([[1, 2], [3], [2, 2]], [[1], [2], [3, 1]])
    values = torch.linalg.eigvalsh(hessian)
    assert values[0] < -values[-1]  # which is not what is asked for
    assert sharpness(trainer, Weights(), rows, 20, 2) == pytest.approx(values[-1].item(), rel=1e-4)
    assert sharpness(trainer, Weights(), rows, 1, 2) < values[-1]


def test_a_model_has_the_sharpness_of_its_whole_hessian() -> None:
    torch.manual_seed(0)
    model: Any = Gpt2(n_layer=1, n_embd=4, n_head=2, n_inner=4, n_positions=4, dropout=0, initializer_range=0.7).build(
        6
    )
    model.eval()
    prompts, answers = np.random.default_rng(0).integers(0, 6, (5, 3)).tolist(), [[1], [2], [3], [4], [5]]
    rows = from_lists(prompts, answers)
    weights = dict(model.named_parameters())
    shapes = {name: weight.shape for name, weight in weights.items()}
    model.set_attn_implementation("eager")

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        own = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts)}
        logits = torch.func.functional_call(model, own, (), {"input_ids": torch.tensor(prompts), "use_cache": False})
        return F.cross_entropy(logits.logits[:, -1], torch.tensor(answers)[:, 0])

    flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
    whole = torch.autograd.functional.hessian(loss, flat)
    values = torch.linalg.eigvalsh(whole)
    expected = values[-1].item()
    model.set_attn_implementation("sdpa")
    trainer: Any = SimpleNamespace(recipe=SimpleNamespace(objective=NextToken()))
    before = {name: weight.clone() for name, weight in weights.items()}
    assert sharpness(trainer, model, rows, 30, 3) == pytest.approx(expected, rel=1e-3)
    assert all(weight.equal(before[name]) and weight.grad is None for name, weight in weights.items())


def test_changes_are_those_of_the_losses_around_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update, the losses of all training rows before and after it, from the model's own loss."""
    recipe = write_recipe(tmp_path, TEXT)
    trainer = prepare(read_recipe(recipe, ["--max_steps", "5", "--output_dir", str(tmp_path / "run")]))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    rows, update = trainer.train_rows, Loop.update

    def losses() -> torch.Tensor:
        model = trainer.model
        was_training = model.training
        model.eval()
        with torch.no_grad():
            logits = model(input_ids=rows.tokens_NT[:, :-1], use_cache=False).logits.double()
        model.train(was_training)
        place = torch.arange(len(rows))
        last = rows.prompt_N - 1  # all answers of this corpus are one token
        return F.cross_entropy(logits[place, last], rows.tokens_NT[place, last + 1], reduction="none")

    def watched(self: Loop, *args: Any) -> Any:
        before = losses()
        result = update(self, *args)
        seen.append((before, losses()))
        return result

    monkeypatch.setattr(Loop, "update", watched)
    train(trainer)
    written = json.loads((tmp_path / "run" / "opposing_signals.json").read_text())
    logs = {line["step"]: line for line in read_history(tmp_path / "run") if "opposing_strength" in line}
    assert [step["step"] for step in written["steps"]] == list(logs) == [1, 3, 5]
    places = sorted({row for step in written["steps"] for row in step["rows"]})
    assert len(places) > 6 and places != list(range(len(places)))
    best: dict[str, Any] = {}
    for step in written["steps"]:
        before, after = seen[step["step"] - 1]
        change = (after - before)[step["rows"]]
        np.testing.assert_allclose(step["changes"], change, atol=2e-6)
        assert (change.abs().diff() <= 1e-6).all()
        line = logs[step["step"]]
        if not best or line["opposing_strength"] > best["opposing_strength"]:
            best = line
        for group in written["groups"] if step["step"] == 5 else ():
            chosen = written["groups"][group]
            assert line[f"opposing_{group}_change"] == pytest.approx((after - before)[chosen].mean().item(), abs=2e-6)
            assert line[f"opposing_{group}_loss"] == pytest.approx(before[chosen].mean().item(), abs=2e-6)
    losses_logged = [line["step"] for line in read_history(tmp_path / "run") if "loss" in line]
    assert losses_logged == [1, 3]  # as without it
    before, after = seen[best["step"] - 1]
    up, down = ((after - before)[written["groups"][group]] for group in ("up", "down"))
    assert best["opposing_strength"] == pytest.approx(min(up.mean().item(), -down.mean().item()), abs=2e-6)
    assert len(up) == len(down) == 3 and up.min() > down.max()
    cosines = [line["opposing_cosine"] for line in read_history(tmp_path / "run") if "opposing_cosine" in line]
    assert cosines and all(-1 <= cosine <= 1 for cosine in cosines)


def test_a_run_that_is_resumed_writes_what_one_that_was_not_does(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TEXT)
    words = ("--save_steps", "2", "--eval_steps", "4", "--callbacks.opposing_signals.iterations", "0")
    assert run_here(recipe, "--max_steps", "4", "--output_dir", str(tmp_path / "whole"), *words) == 0
    for steps in ("2", "4"):
        assert run_here(recipe, "--max_steps", steps, "--output_dir", str(tmp_path / "parts"), *words) == 0
    whole, parts = (json.loads((tmp_path / name / "opposing_signals.json").read_text()) for name in ("whole", "parts"))
    assert whole["steps"] == parts["steps"] and whole["groups"] == parts["groups"]


def test_rows_that_are_not_those_of_the_corpus_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TEXT + "objective: {name: preference}\n"
    assert run_here(write_recipe(tmp_path, text)) == 2
    assert "callbacks.opposing_signals: looks at rows of the corpus, and others are trained" in capsys.readouterr().err
