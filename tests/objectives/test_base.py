"""What an objective is given beside logits and labels, and by what its losses are divided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch.nn import functional as F

from pipeline.config.recipe import read_recipe
from pipeline.data.labels import IGNORED
from pipeline.objectives.next_token import NextToken
from pipeline.training.session import prepare
from tests.tiny import COMPOSITION, write_recipe


@dataclass(frozen=True)
class Smooth(NextToken):
    """With the states before and after the last block near each other."""

    asks: ClassVar[Mapping[str, Any] | None] = {"output_hidden_states": True}

    def losses(self, logits_BAV: Any, batch: Any, outputs: Any) -> Any:
        step_BL = (outputs.hidden_states[-1] - outputs.hidden_states[-2]).square().mean(-1)
        far_BA = step_BL.gather(1, batch["positions"])
        return super().losses(logits_BAV, batch, None) + far_BA.masked_fill(batch["labels"] == IGNORED, 0)


@dataclass(frozen=True)
class Worst(NextToken):
    """The largest loss of the tokens of each row."""

    per: ClassVar[Literal["target", "row"]] = "row"

    def losses(self, logits_BAV: Any, batch: Any, outputs: Any) -> Any:
        assert outputs is None
        return super().losses(logits_BAV, batch, outputs).amax(1)


def update_of(folder: Path, objective: NextToken, *words: str) -> tuple[dict[str, torch.Tensor], Any]:
    """The gradients of the first update with an objective, and the batch that they are of."""
    words = (*words, f"--output_dir={folder / 'run'}", "--model.dropout=0", "--max_grad_norm=0", "--corpus.bridge=said")
    recipe = read_recipe(write_recipe(folder, COMPOSITION), words)
    trainer = prepare(dataclasses.replace(recipe, objective=objective))
    trainer.create_optimizer_and_scheduler(1)
    loader: Any = trainer.get_train_dataloader()
    batches = [trainer.train_rows.__getitems__(index) for index in loader.batch_sampler]
    batches = batches[: 32 // len(batches[0]["labels"])]
    items = trainer._get_num_items_in_batch(batches, trainer.args.device)
    for batch in batches:
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).backward()
    found = {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    return found, (trainer.model, trainer.train_rows.__getitems__(loader.batch_sampler.update_rows(0)))


def plain(model: Any, batch: Any) -> tuple[torch.Tensor, Any]:
    """The losses of a batch (B, A) by transformers and torch alone, and the outputs of the model."""
    outputs = model(input_ids=batch["input_ids"], use_cache=False, output_hidden_states=True)
    logits_BAV = outputs.logits[torch.arange(len(batch["labels"]))[:, None], batch["positions"]]
    losses_BA = F.cross_entropy(logits_BAV.transpose(1, 2), batch["labels"], reduction="none", ignore_index=IGNORED)
    return losses_BA, outputs


@pytest.mark.parametrize("words", [(), ("--per_device_train_batch_size=8",), ("--fast=false",)])
def test_an_objective_sees_the_states_that_it_asks_for(words: tuple[str, ...], tmp_path: Path) -> None:
    found, (model, batch) = update_of(tmp_path, Smooth(), *words)
    losses_BA, outputs = plain(model, batch)
    before, after = outputs.hidden_states[-2:]
    far = [
        (after[row, place] - before[row, place]).square().mean()
        for row, places in enumerate(batch["positions"].tolist())
        for place, label in zip(places, batch["labels"][row].tolist())
        if label != IGNORED
    ]
    ((losses_BA.sum() + sum(far)) / len(far)).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("words", [(), ("--per_device_train_batch_size=8",), ("--fast=false",)])
def test_losses_of_rows_are_divided_by_their_number(words: tuple[str, ...], tmp_path: Path) -> None:
    found, (model, batch) = update_of(tmp_path, Worst(), *words)
    losses_BA, _ = plain(model, batch)
    assert (batch["labels"] == IGNORED).any() and len(losses_BA) == 32
    losses_BA.amax(1).mean().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)
