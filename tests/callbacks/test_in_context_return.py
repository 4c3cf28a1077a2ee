"""A model acts in the dark room: one that always goes right, and one that goes anywhere, whose gains are known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.recipe import read_recipe
from pipeline.runs.metrics import read_history
from pipeline.training.session import prepare
from tests.tiny import RECIPE, run_here, write_recipe

ROOM = "{name: dark_room, size: 3, steps: 3, learning_episodes: 8, episodes: 2, histories: 40, test_histories: 20}"
DARK = RECIPE.replace("{name: group, group: Z11, train_fraction: 0.5, template: a b = c}", ROOM).replace(
    "{console: {style: plain, seconds: 0}}", "{console: {style: plain, seconds: 0}, in_context_return: {agents: 400}}"
).replace("n_positions: 8", "n_positions: 17") + "objective: {name: actions}\n"  # fmt: skip
GOALS = [(row, column) for row, column in itertools.product(range(3), repeat=2) if (row, column) != (1, 1)]
WAYS = [(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("dark")
    return prepare(read_recipe(write_recipe(folder, DARK), ["--output_dir", str(folder / "run")]))


def logged(trainer: Any, bias: torch.Tensor) -> dict[str, float]:
    """What the callback says of a model whose last states are all the same."""
    last = trainer.model.transformer.ln_f
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(bias)
    found: dict[str, float] = {}
    trainer.log, log = found.update, trainer.log
    try:
        callback = next(one for one in trainer.callback_handler.callbacks if hasattr(one, "agents"))
        callback.on_evaluate(trainer.args, trainer.state, trainer.control)
    finally:
        trainer.log = log
    return found


def agents_of(trainer: Any, split: str) -> list[tuple[int, int]]:
    """The goals of 400 agents: those of a split in turn."""
    goals = [divmod(int(goal), 3) for goal in trainer.recipe.corpus.goals(split)]
    return [goals[number % len(goals)] for number in range(400)]


def test_one_that_always_goes_right_gains_where_the_goal_is_there(trainer: Any) -> None:
    right = trainer.recipe.corpus.vocabulary().index("right")
    found = logged(trainer, 1e4 * trainer.model.transformer.wte.weight[right].detach())
    assert len(found) == 2 * 3
    for split in ("train", "unseen"):
        share = sum(goal == (1, 2) for goal in agents_of(trainer, split)) / 400
        for episode in (1, 2):
            assert found[f"return_{split}_{episode}"] == pytest.approx(share)
        assert found[f"return_{split}_rise"] == pytest.approx(0)
    assert any(found[f"return_{split}_1"] > 0 for split in ("train", "unseen"))


def test_one_that_goes_anywhere_gains_what_chance_gains(trainer: Any) -> None:
    found = logged(trainer, torch.zeros_like(trainer.model.transformer.ln_f.bias))
    chance = {}
    for goal in GOALS:  # all ways of three moves, each as likely
        total = 0
        for moves in itertools.product(WAYS, repeat=3):
            at = (1, 1)
            for move in moves:
                at = (min(max(at[0] + move[0], 0), 2), min(max(at[1] + move[1], 0), 2))
                total += at == goal
        chance[goal] = total / 5**3 / (4 - abs(goal[0] - 1) - abs(goal[1] - 1))
    for split in ("train", "unseen"):
        expected = sum(chance[goal] for goal in agents_of(trainer, split)) / 400
        for episode in (1, 2):
            assert found[f"return_{split}_{episode}"] == pytest.approx(expected, abs=0.05)
    assert found["return_train_1"] != found["return_train_2"]


def test_a_run_writes_them_and_trains_its_moves(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, DARK.replace("agents: 400", "agents: 4"))
    assert run_here(recipe, "--max_steps", "12", "--circuits", "{}") == 0
    history = read_history(tmp_path / "run")
    evaluated = [line for line in history if "return_unseen_rise" in line]
    assert len(evaluated) >= 3 and all(0 <= line["return_unseen_2"] <= 1 for line in evaluated)
    losses = [line["loss"] for line in history if "loss" in line]
    assert losses[0] == pytest.approx(torch.tensor(24.0).log().item(), rel=0.1)  # of the 24 tokens that there are
    assert losses[-1] < losses[0]


def test_nothing_is_said_where_no_agent_acts(tmp_path: Path) -> None:
    text = RECIPE.replace("{console: {style: plain, seconds: 0}}", "{in_context_return: {}}")
    assert run_here(write_recipe(tmp_path, text), "--max_steps", "2", "--circuits", "{}") == 0
    assert not any("return_unseen_rise" in line for line in read_history(tmp_path / "run"))
