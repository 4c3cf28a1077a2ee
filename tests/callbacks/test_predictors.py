"""What is measured on training rows while training, worked out in another way: copies of the model, numpy, formulas."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.callbacks._probe import batch_of
from pipeline.callbacks.attention_diversity import AttentionDiversity
from pipeline.callbacks.base import Callback
from pipeline.callbacks.commutator_defect import CommutatorDefect
from pipeline.callbacks.llc import Llc
from pipeline.callbacks.spectral_entropy import SpectralEntropy
from pipeline.config.recipe import read_recipe
from pipeline.plots.training import INTERNALS, panel_titles
from pipeline.training.session import prepare
from pipeline.training.trainer import GrokTrainer
from tests.tiny import RECIPE, write_recipe


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> GrokTrainer:
    folder = tmp_path_factory.mktemp("predictors")
    recipe = write_recipe(folder, RECIPE.replace("n_layer: 1", "n_layer: 2, initializer_range: 0.5"))
    return prepare(read_recipe(recipe, ["--output_dir", str(folder / "run")]))


def logged(callback: Callback, trainer: GrokTrainer, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What it logs at an evaluation, which leaves weights, mode and random numbers as they are."""
    found: dict[str, float] = {}
    monkeypatch.setattr(trainer, "log", found.update)
    before = copy.deepcopy(trainer.model.state_dict())
    draws, was_training = torch.get_rng_state(), trainer.model.training
    callback.attach(trainer)
    joined: Any = trainer.callback_handler.callbacks[-1]
    joined.on_evaluate(trainer.args, trainer.state, trainer.control)
    trainer.remove_callback(joined)
    assert all(weight.equal(before[name]) for name, weight in trainer.model.state_dict().items())
    assert torch.get_rng_state().equal(draws) and trainer.model.training == was_training
    return found


def test_commutator_defect(trainer: GrokTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against two steps of gradient descent in both orders, in float64."""
    found = logged(CommutatorDefect(pairs=3, rows=8, step=0.01), trainer, monkeypatch)

    def stepped(model: Any, batch: Any) -> Any:
        model = copy.deepcopy(model)
        logits = model(batch["input_ids"]).logits[:, -1]
        F.cross_entropy(logits, batch["labels"][:, 0]).backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight.sub_(0.01 * weight.grad)
        model.zero_grad()
        return model

    def flat(model: Any) -> torch.Tensor:
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    defects = []
    model = copy.deepcopy(trainer.model).double().eval()
    for pair in range(3):
        a, b = (batch_of(trainer, 8, f"commutator {pair} {side}") for side in "AB")
        on_a, on_b = stepped(model, a), stepped(model, b)
        apart = (flat(stepped(on_a, b)) - flat(stepped(on_b, a))).norm()
        defects.append(float(apart / ((flat(on_a) - flat(model)).norm() * (flat(on_b) - flat(model)).norm())))
    assert len(set(defects)) == 3
    assert found == {"commutator_defect": pytest.approx(sorted(defects)[1], rel=1e-3)}


def test_spectral_entropy(trainer: GrokTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = logged(SpectralEntropy(rows=30), trainer, monkeypatch)
    batch = batch_of(trainer, 30, "spectral entropy")
    with torch.no_grad():
        hidden = copy.deepcopy(trainer.model).eval().transformer(batch["input_ids"]).last_hidden_state[:, -1].numpy()
    squares = np.linalg.svd(hidden - hidden.mean(0), compute_uv=False).astype(np.float64) ** 2
    p = squares / squares.sum()
    assert found == {"spectral_entropy": pytest.approx(-(p * np.log(p)).sum() / math.log(16), rel=1e-4)}
    assert 0 < found["spectral_entropy"] < 1


def test_attention_diversity(trainer: GrokTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    implementation = trainer.model.config._attn_implementation
    found = logged(AttentionDiversity(rows=5), trainer, monkeypatch)
    assert trainer.model.config._attn_implementation == implementation
    model = copy.deepcopy(trainer.model).eval()
    model.set_attn_implementation("eager")
    batch = batch_of(trainer, 5, "attention diversity")
    with torch.no_grad():
        layers = model(batch["input_ids"], output_attentions=True).attentions
    similar, spread = [], []
    for layer in (layer.double().numpy() for layer in layers):
        pairs = [(row[0].ravel(), row[1].ravel()) for row in layer]
        similar.append(np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))
        logs = np.log(np.where(layer > 0, layer, 1))
        spread.append(np.std([-(layer[:, head] * logs[:, head]).sum(-1).mean() for head in range(2)]))
    assert found["head_similarity"] == pytest.approx(np.mean(similar), rel=1e-5)
    assert found["head_entropy_spread"] == pytest.approx(np.mean(spread), rel=1e-4)
    assert found["head_entropy_spread"] > 1e-4 and 0 < found["head_similarity"] < 0.9999


def test_the_llc_of_a_bowl_is_half_of_its_dimensions() -> None:
    """And of a quartic valley, whose loss rises more slowly, a quarter; pulled back it is less, by a known factor."""
    n_beta, gamma, size = 200.0, 50.0, 300

    def bowl(weights: Any, _: Any) -> Any:
        return (weights["w"] ** 2).sum() / 2, {"w": weights["w"]}

    def quartic(weights: Any, _: Any) -> Any:
        return (weights["w"] ** 4).sum() / 4, {"w": weights["w"] ** 3}

    start = {"w": torch.zeros(size, dtype=torch.float64)}
    found = Llc(draws=4000, step_size=1e-3, localization=gamma).coefficient(bowl, start, None, n_beta)
    precision = n_beta + gamma
    # The stationary variance of the chain, with the bias of its step size.
    expected = size / 2 * n_beta / precision / (1 - 1e-3 * precision / 4)
    assert found == pytest.approx(expected, rel=0.03)
    free = Llc(draws=4000, step_size=1e-3, localization=0.0).coefficient(quartic, start, None, n_beta)
    assert free == pytest.approx(size / 4, rel=0.05)


def test_llc_is_logged_of_training_rows(trainer: GrokTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pull that holds the chain at the weights, it is the linear term of what the noise does: near 0."""
    few = logged(Llc(draws=6, rows=16, step_size=1e-5, localization=1.0), trainer, monkeypatch)
    again = logged(Llc(draws=6, rows=16, step_size=1e-5, localization=1.0), trainer, monkeypatch)
    assert few == again and math.isfinite(few["llc"]) and few["llc"] != 0


def test_a_run_shows_what_a_predictor_saw(tmp_path: Path) -> None:
    from pipeline.runs.metrics import read_series
    from tests.tiny import run_here

    words = "{spectral_entropy: {}, commutator_defect: {pairs: 1}, attention_diversity: {}, llc: {draws: 2}}"
    assert run_here(write_recipe(tmp_path), "--max_steps", "2", "--callbacks", words) == 0
    series = read_series(tmp_path / "run")
    for key in ("spectral_entropy", "commutator_defect", "head_similarity", "head_entropy_spread", "llc"):
        assert len(series[key].steps) == len(series["weight_norm"].steps) > 1
        assert INTERNALS[key][0] in panel_titles(series)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "local learning coefficient" in page and "commutator defect" in page
