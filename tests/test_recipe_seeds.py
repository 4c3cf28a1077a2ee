"""Every shipped recipe under five seeds: order, weights and dropout all differ, and one seed gives the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.recipe import read_recipe
from pipeline.config.registry import room_name
from pipeline.data.rows import RowOrder
from pipeline.training.session import prepare, train
from tests.test_recipes import RECIPES, SHORT, base, stand_ins
from tests.training.test_seeds import Generators

__all__ = ["base"]  # a fixture

SEEDS = (0, 1, 2, 42, 2**32 - 1)
# Small enough to be trained six times; the slow variant leaves corpus and model as they are.
CORPORA = {
    "composition": {"num_entities": 40, "num_relations": 10, "out_degree": 5, "ratio": 3, "ood_fraction": 0.2},
    "comparison": {"num_entities": 30, "num_attributes": 4, "ratio": 3},
    "complex_reasoning": {"num_entities": 40, "num_attributes": 3},
    "babi": {"tasks": [1, 15], "questions": 100, "test_questions": 20},
    "graph_isomorphism": {"pairs": 200, "test_pairs": 40},
    "k_hop": {"num_entities": 20, "per_hop": 100, "held_out_per_hop": 20},
}
MODEL = {"n_layer": 1, "n_embd": 32, "n_head": 2}

Run = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def trained(path: Path, folder: Path, seed: int, base: Path, is_small: bool) -> Run:
    """The order of rows, the weights and the state of the generator after 20 steps."""
    recipe = read_recipe(path)
    values = {**SHORT, "max_steps": 20, "eval_strategy": "no", "circuits": "{}"}
    is_continued = room_name(recipe.model) == "pretrained"
    if "model_name_or_path" in recipe.model.as_dict():
        values |= stand_ins(path, base)
    if is_small:
        values |= {f"corpus.{key}": value for key, value in CORPORA.get(room_name(recipe.corpus), {}).items()}
        values |= {} if is_continued else {f"model.{key}": value for key, value in MODEL.items()}
    words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    trainer = prepare(read_recipe(path, [*words, "--output_dir", str(folder / f"{seed}"), "--seed", str(seed)]))
    generators = Generators()
    trainer.add_callback(generators)
    order = trainer.get_train_dataloader().batch_sampler
    train(trainer)
    assert trainer.state.global_step == len(generators.states) == 20
    taken = torch.cat([RowOrder.update_rows(order, update) for update in range(20)]).cpu()
    weights = torch.cat([weight.detach().flatten().cpu() for weight in trainer.model.parameters()])
    return taken, weights, torch.tensor(generators.states[-1])


def check_seeds(path: Path, base: Path, folder: Path, is_small: bool) -> None:
    if "\npeft:" in path.read_text():
        pytest.importorskip("peft", reason="the extra peft is not installed")
    runs = [trained(path, folder / "first", seed, base, is_small) for seed in SEEDS]
    for what, parts in zip(("order", "weights", "dropout"), zip(*runs)):
        for i, one in enumerate(parts):
            assert not any(one.equal(other) for other in parts[i + 1 :]), what
    again = trained(path, folder / "again", SEEDS[1], base, is_small)
    assert all(one.equal(other) for one, other in zip(again, runs[1]))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_five_seeds_are_five_trainings(path: Path, base: Path, tmp_path: Path) -> None:
    check_seeds(path, base, tmp_path, is_small=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_five_seeds_are_five_trainings_at_full_size(path: Path, base: Path, tmp_path: Path) -> None:
    check_seeds(path, base, tmp_path, is_small=False)
