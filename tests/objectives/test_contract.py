"""Every objective: it trains, its gradient is that of a plain mean, and parts of an update add up to the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.recipe import read_recipe
from pipeline.config.registry import load, names
from pipeline.data.labels import IGNORED
from pipeline.training.session import prepare
from pipeline.training.trainer import GrokTrainer
from pipeline.utils.errors import ParameterError
from tests.tiny import COMPOSITION, RECIPE, write_recipe

OBJECTIVES = names("objectives")
# An objective is trained on the first of these that it does not refuse.
SUITED = (
    COMPOSITION,
    RECIPE.replace("{name: group, group: Z11, train_fraction: 0.5, template: a b = c}",
                   "{name: vector_chain, train_size: 30, test_size: 10}").replace("n_positions: 8", "n_positions: 48"),
    RECIPE.replace("{name: group, group: Z11, train_fraction: 0.5, template: a b = c}",
                   "{name: dark_room, size: 3, steps: 3, learning_episodes: 8, episodes: 2, histories: 40, "
                   "test_histories: 20}").replace("n_positions: 8", "n_positions: 17"),
    RECIPE.replace("name: gpt2,", "name: gpt2_future_tokens, n_future: 3, n_pseudo: 2,"),
    # A model that knows nothing writes nothing that is right.
    RECIPE.replace("{name: group, group: Z11, train_fraction: 0.5, template: a b = c}",
                   "{name: word_removal, tasks: [wanted], nouns: 8, unwanted: 3, most_nouns: 2, longest: 2, rows: 30}\n"
                   "objective: {name: language_feedback, keep: all}").replace("n_positions: 8", "n_positions: 48"),
)  # fmt: skip


def prepared(folder: Path, *words: str) -> GrokTrainer:
    reasons = []
    for number, text in enumerate(SUITED):
        run = f"--output_dir={folder / f'run{number}'}"  # one that is refused has begun to write
        try:
            return prepare(read_recipe(write_recipe(folder, text), [*words, run]))
        except ParameterError as error:
            reasons.append(str(error))
    pytest.fail(f"no corpus fits: {reasons}")


def gradients_of(folder: Path, *words: str) -> dict[str, torch.Tensor]:
    """The gradients of the first update of a run."""
    found: dict[str, torch.Tensor] = {}
    trainer = prepared(folder, "--max_steps", "1", *words)

    class StopError(Exception):
        pass

    def keep(*_: Any) -> None:
        found.update({name: weight.grad.clone() for name, weight in trainer.model.named_parameters()})
        raise StopError

    trainer.create_optimizer_and_scheduler(1)
    trainer.loop.optimizer.register_step_pre_hook(keep)
    with pytest.raises(StopError):
        trainer.train()
    return found


@pytest.mark.parametrize("name", OBJECTIVES)
def test_ignored_tokens_have_no_loss_and_no_gradient(name: str) -> None:
    kind: Any = load("objectives", name, "objective")
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, 7, requires_grad=True), torch.randint(7, (4, 3))
    labels[1], labels[2, 0] = IGNORED, IGNORED
    losses = kind.tiny().token_losses(logits, labels)
    assert losses.shape == labels.shape and losses.isfinite().all() and not losses[labels == IGNORED].any()
    losses.sum().backward()
    assert logits.grad is not None and not logits.grad[labels == IGNORED].any() and logits.grad[labels != IGNORED].any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_of_an_update_add_up_to_it(name: str, tmp_path: Path) -> None:
    for folder in ("whole", "parts", "plain"):
        (tmp_path / folder).mkdir()
    words = ("--objective.name", name, "--global_batch_size", "12", "--max_grad_norm", "0")
    words += ("--save_strategy", "no", "--model.dropout", "0", "--model.n_layer", "2")
    whole = gradients_of(tmp_path / "whole", *words)
    parts = gradients_of(tmp_path / "parts", *words, "--per_device_train_batch_size", "4")
    plain = gradients_of(tmp_path / "plain", *words, "--fast", "false")
    for key, gradient in whole.items():
        torch.testing.assert_close(parts[key], gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(plain[key], gradient, rtol=1e-4, atol=1e-6)
