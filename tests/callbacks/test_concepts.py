"""Drawings and interventions of concept_trajectory, against plain generation and blocks called one by one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.callbacks import concept_trajectory
from pipeline.callbacks.concept_trajectory import CLASSES, ConceptTrajectory
from pipeline.config.recipe import read_recipe
from pipeline.corpora.concept_grid import ConceptGrid
from pipeline.data.asked import concepts_of
from pipeline.runs.metrics import read_series
from pipeline.training.session import prepare, train
from pipeline.utils.errors import ParameterError
from tests.tiny import RECIPE, write_recipe

GRID = "{name: concept_grid, colour_signal: 4, size_signal: 6, positions: 8, train_rows: 24, held_out_rows: 6}"
TEXT = RECIPE.replace("{name: group, group: Z11, train_fraction: 0.5, template: a b = c}", GRID)
TEXT = TEXT.replace("n_layer: 1", "n_layer: 2, initializer_range: 0.5").replace("n_positions: 8", "n_positions: 16")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("concepts")
    text = TEXT.replace("{console: {style: plain, seconds: 0}}", "{console: {style: 'off'}, concept_trajectory: {}}")
    words = ["--max_steps", "9", "--output_dir", str(folder / "run")]
    trainer = prepare(read_recipe(write_recipe(folder, text), words))
    train(trainer)
    return trainer


def shown(trainer: Any, **chosen: Any) -> dict[str, np.ndarray]:
    callback = ConceptTrajectory(**chosen)
    callback.__dict__["trainer"] = trainer
    model = copy.deepcopy(trainer.model).eval()
    with torch.no_grad():
        found = callback._shown(model, concepts_of(trainer.recipe, "cpu"))
    assert not any(module._forward_hooks for module in model.transformer.h)
    return {name: part.numpy() for name, part in found.items()}


def degree(trainer: Any, logits: torch.Tensor, concept: int) -> list[float]:
    """How likely the value 1 of a concept is, of the two values that there are, by the words of the vocabulary."""
    names = [("red", "blue"), ("small", "big")][concept]
    words = trainer.recipe.corpus.tokens()
    low, high = ([i for i, word in enumerate(words) if word[:-1] == name] for name in names)
    chances = logits.double().softmax(-1)
    return (chances[:, high].sum(1) / chances[:, [*low, *high]].sum(1)).tolist()


def prompts(trainer: Any, name: str) -> torch.Tensor:
    return torch.from_numpy(trainer.recipe.corpus.prompts(CLASSES[name])).long()


def test_combinations_are_drawn_as_generate_does_and_logged(trainer: Any) -> None:
    corpus = trainer.recipe.corpus
    assert isinstance(corpus, ConceptGrid)
    found, series = shown(trainer), read_series(trainer.recipe.output_dir)
    model = copy.deepcopy(trainer.model).eval()
    for name in CLASSES:
        tokens = prompts(trainer, name)
        whole = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=2, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        for concept in (0, 1):
            expected = degree(trainer, whole.logits[concept], concept)
            np.testing.assert_allclose(found[name][:, concept], expected, atol=1e-5)
            logged = series[f"concept_{name}_{corpus.concepts[concept]}"]
            assert logged.values[-1] == pytest.approx(np.mean(expected), abs=1e-5)
    assert series["concept_11_naive"].values[-1] == pytest.approx((found["11"] > 0.5).all(1).mean())
    half = len(found["11"]) // 2
    tried = [(found[f"steering {factor}"] > 0.5).all(1) for factor in (0.5, 1.0, 2.0, 3.0)]
    best = max(tried, key=lambda right: right[:half].sum())
    assert series["concept_11_steering"].values[-1] == pytest.approx(best[half:].mean())
    assert list(series["concept_11_naive"].steps) == [1, 3, 4, 7, 9]  # where 2 sqrt(step) passes a whole number


def test_interventions_that_change_nothing_show_what_is_asked(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concept_trajectory, "OVER_PROMPTING", (1.0, 2.0))
    monkeypatch.setattr(concept_trajectory, "STEERING", (0.0, 2.0))
    found = shown(trainer)
    for name in ("over_prompting", "steering"):
        same, other = (found[f"{name} {factor}"] for factor in (1.0 if name == "over_prompting" else 0.0, 2.0))
        np.testing.assert_allclose(same, found["11"], atol=1e-6)
        assert np.abs(other - found["11"]).max() > 1e-3


@pytest.mark.parametrize("after", [0, 1])
def test_interventions_are_what_they_say(trainer: Any, after: int) -> None:
    """What is drawn first, by the blocks called one after the other."""
    found = shown(trainer, after=after)
    body = copy.deepcopy(trainer.model).eval()
    with torch.no_grad():
        embedded = {name: body.transformer.wte(prompts(trainer, name)) for name in CLASSES}

        def through(states: torch.Tensor, first: int, last: int) -> torch.Tensor:
            for block in body.transformer.h[first:last]:
                states = block(states, attention_mask=None)
                states = states[0] if isinstance(states, tuple) else states
            return states

        def colour(states: torch.Tensor) -> list[float]:
            logits = body.lm_head(body.transformer.ln_f(through(states, after + 1, 2))[:, -1])
            return degree(trainer, logits, 0)

        position = body.transformer.wpe(torch.arange(5))
        states = {name: through(part + position, 0, after + 1) for name, part in embedded.items()}
        expected = {"arithmetic": states["01"] + states["10"] - states["00"]}
        both = states["10"].mean(0) - states["00"].mean(0) + states["01"].mean(0) - states["00"].mean(0)
        expected |= {f"steering {factor}": states["11"] + factor * both for factor in (0.5, 1.0, 2.0, 3.0)}
        for factor in (1.25, 1.5, 2.0, 3.0):
            over = embedded["11"].clone()
            over[:, 2:4] = embedded["00"][:, 2:4] + factor * (over[:, 2:4] - embedded["00"][:, 2:4])
            expected[f"over_prompting {factor}"] = through(over + position, 0, after + 1)
        for name, part in expected.items():
            np.testing.assert_allclose(found[name][:, 0], colour(part), atol=1e-5, err_msg=name)


def test_a_block_that_is_not_there_is_refused(trainer: Any) -> None:
    with pytest.raises(ParameterError, match=r"concept_trajectory\.after: 2 is no block of 2"):
        ConceptTrajectory(after=2).attach(trainer)


def test_nothing_is_logged_of_other_corpora(tmp_path: Path) -> None:
    text = RECIPE.replace("{console: {style: plain, seconds: 0}}", "{concept_trajectory: {}}")
    words = ["--max_steps", "4", "--output_dir", str(tmp_path / "r")]
    trainer = prepare(read_recipe(write_recipe(tmp_path, text), words))
    train(trainer)
    assert not [key for key in read_series(tmp_path / "r") if key.startswith("concept")]
