"""Each key of an objective, an optimizer, a collator and a callback turned alone: a run trains or logs otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.config.fields import parameters_of
from pipeline.config.registry import load, names
from pipeline.runs.metrics import read_history
from tests.callbacks.test_choices import CORPORA as CHOICES
from tests.callbacks.test_concepts import GRID
from tests.callbacks.test_forgetting import POS
from tests.callbacks.test_in_context_return import DARK
from tests.objectives.test_contract import SUITED
from tests.tiny import COMPOSITION, RECIPE, run_here, write_recipe
from tests.turned import turned

GROUP = "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}"
# Room -> the key of a recipe that chooses of it, whether one or several by name.
ROOMS = {"objectives": ("objective", "one"), "optim": ("optimizer", "several"), "collators": ("collator", "several"),
         "callbacks": ("callbacks", "several")}  # fmt: skip
_, CHAINS, _, AHEAD, FEEDBACK = SUITED
# What an entry is turned on where it is not the group of other tests.
TEXTS = {
    "bridge": COMPOSITION.replace("n_layer: 1", "n_layer: 4"),
    "every_prefix": CHAINS,
    "future_tokens": AHEAD,
    "language_feedback": FEEDBACK.replace("\nobjective: {name: language_feedback, keep: all}", ""),
    "span_drop": RECIPE.replace(GROUP, "{name: findcats, length: 24, train_size: 200, test_size: 40}")
    .replace("n_positions: 8", "n_positions: 64"),
    "choices": RECIPE.replace(GROUP, CHOICES["first_auxiliary"]).replace("n_positions: 8", "n_positions: 48"),
    "concept_trajectory": RECIPE.replace(GROUP, GRID).replace("n_layer: 1", "n_layer: 2"),
    "forced_choice": RECIPE.replace(GROUP, POS).replace("n_positions: 8", "n_positions: 16"),
    "in_context_return": DARK,
    "preference_dynamics": RECIPE + "objective: {name: preference}\n",
}  # fmt: skip
# What else an entry needs to be what it is when a key of it is turned.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("grokfast", "window"): {"average": "ma", "window": 2},
    ("language_feedback", "prompts"): {"keep": "all"},
    ("language_feedback", "refinements"): {"keep": "all"},
    ("language_feedback", "temperature"): {"keep": "all", "refinements": 2},
    ("language_feedback", "seed"): {"keep": "all", "refinements": 2},
    ("bridge", "layer"): {"layer": 1},
    ("span_drop", "scale"): {"rate": "beta"},
    ("embedding_forgetting", "until"): {"every": 2, "until": 3},
    ("embedding_forgetting", "probability"): {"every": None, "probability": 0.3},
}
# Values of keys that a value near the one there is does not move.
VALUES: dict[tuple[str, str], Any] = {
    ("preference", "beta_rejected"): 0.7,
    ("egalitarian", "floor"): 0.9,
    ("bridge", "layer"): 2,
}
# Keys whose tests stand elsewhere: what is printed, texts that are read, how the same numbers are computed.
ELSEWHERE = {
    ("console", "style"), ("console", "seconds"), ("base_perplexity", "source"), ("base_perplexity", "config"),
    ("base_perplexity", "split"), ("base_perplexity", "column"), ("opposing_signals", "chunk"),
    ("preference", "reference"),
    ("language_feedback", "keep"),  # refused where nothing right was written
}  # fmt: skip
KEYS = [
    (room, name, field.name)
    for room in ROOMS
    for name in names(room)
    for field in parameters_of(load(room, name, room))
    if (name, field.name) not in ELSEWHERE
]


def trace(folder: Path, room: str, name: str, values: dict[str, Any]) -> Any:
    """What a run of six steps has trained and logged, but for times; None where it is refused."""
    key, choice = ROOMS[room]
    block = {"name": name, **values} if choice == "one" else {name: values}
    folder.mkdir()
    recipe = write_recipe(
        folder, TEXTS.get(name, RECIPE).replace("callbacks: {console: {style: plain, seconds: 0}}\n", "")
    )
    words = [f"--{key}", json.dumps(block), "--max_steps", "6", "--logging_steps", "1", "--eval_steps", "2"]
    if run_here(recipe, *words, "--checkpoints", "{powers_of_two: false, every: [[3, null]]}", "--circuits", "{}"):
        return None
    weights = load_file(folder / "run" / "steps" / "step6" / "model.safetensors")
    lines = [{k: v for k, v in line.items() if not k.endswith(("seconds", "share", "_per_second"))}
             for line in read_history(folder / "run")]  # fmt: skip
    return {name: weight.tolist() for name, weight in weights.items()}, json.dumps(lines)


@pytest.fixture(scope="module")
def before() -> dict[Any, Any]:
    """The traces of entries as their tiny values have them, or as `BESIDE` says."""
    return {}


@pytest.mark.parametrize(("room", "name", "key"), KEYS, ids=[f"{name}.{key}" for _, name, key in KEYS])
def test_each_key_changes_the_run(room: str, name: str, key: str, tmp_path: Path, before: dict[Any, Any]) -> None:
    kind: Any = load(room, name, room)
    beside = BESIDE.get((name, key), {})
    base = type(kind.tiny(tmp_path))(**{**kind.tiny(tmp_path).as_dict(), **beside})
    at = (name, json.dumps(beside))
    if at not in before:
        before[at] = trace(tmp_path / "before", room, name, base.as_dict())
    assert before[at] is not None, "the run is refused"
    value = VALUES.get((name, key))
    found = [{**base.as_dict(), key: value}] if value is not None else [one.as_dict() for one in turned(base, key)]
    assert found, "no other value"
    traces = (trace(tmp_path / f"turned{number}", room, name, values) for number, values in enumerate(found))
    changed = any(one is not None and one != before[at] for one in traces)
    assert changed, f"{name}.{key} changes nothing that six steps train or log: see TEXTS, BESIDE and VALUES"
