"""The bridge's loss against its formula, by plain transformers; and what it cannot be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pipeline.config.recipe import read_recipe
from pipeline.data.labels import IGNORED
from pipeline.training.session import prepare
from pipeline.utils.errors import ParameterError
from tests.tiny import COMPOSITION, RECIPE, write_recipe

BRIDGE = "{name: bridge, weight: 0.5}"
FACTS = "--objective.facts=true"
LOOPED = ("--model.name=gpt2_looped", "--model.n_layer=1", "--model.n_loops=2")


def prepared(folder: Path, *words: str, text: str = COMPOSITION) -> Any:
    given = (f"--objective={BRIDGE}", "--model.n_layer=2", "--model.dropout=0", f"--output_dir={folder / 'run'}")
    trainer = prepare(read_recipe(write_recipe(folder, text), [*given, *words]))
    trainer.create_optimizer_and_scheduler(1)
    return trainer


def expected_loss(trainer: Any, rows_B: Any, facts: bool) -> torch.Tensor:
    """The mean over all targets of an update, row by row: the answer's tokens, and half the loss of what is read."""
    model, stored = trainer.model, trainer.folder.stored
    blocks = list(stored.blocks("train"))
    examples = [
        (prompt, answer, int(bridge))
        for block in blocks
        for prompt, answer, bridge in zip(block.prompts, block.answers, block.notes["bridge"])
    ]
    total, targets, bridges = torch.zeros(()), 0, 0
    states: list[Any] = []
    hook = model.transformer.h[0].register_forward_hook(lambda *found: states.append(found[2]))
    for row in rows_B.tolist():
        prompt, answer, bridge = examples[row]
        tokens = torch.tensor([*prompt.tolist(), *answer.tolist()])
        states.clear()
        log_p = model(input_ids=tokens[None, :-1]).logits[0].log_softmax(-1)
        for place in range(len(prompt), len(tokens)):
            total = total - log_p[place - 1, tokens[place]]
            targets += 1
        read = (1, bridge) if bridge >= 0 else (len(prompt) - 1, int(answer[0])) if facts else None
        if read:
            assert (len(prompt) == 3) == (bridge >= 0)
            state = states[0][0] if isinstance(states[0], tuple) else states[0]
            log_p_read = model.lm_head(model.transformer.ln_f(state[:, read[0]])).log_softmax(-1)
            total = total - 0.5 * log_p_read[0, read[1]]
            bridges += 1
    hook.remove()
    assert bridges and targets > bridges
    return total / targets


@pytest.mark.parametrize(
    "words", [(), LOOPED, ("--per_device_train_batch_size=8", FACTS), ("--fast=false",), ("--objective.place=1", FACTS)]
)
def test_an_update_is_that_of_the_formula(words: tuple[str, ...], tmp_path: Path) -> None:
    trainer = prepared(tmp_path, *words)
    model, order = trainer.model, trainer.get_train_dataloader().batch_sampler
    taken = [index for index, _ in zip(order, range(32 // trainer.args.train_batch_size))]
    batches = [trainer.train_rows.__getitems__(index) for index in taken]
    items = trainer._get_num_items_in_batch(batches, trainer.args.device)
    loss = sum(trainer.compute_loss(model, batch, num_items_in_batch=items) for batch in batches)
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    expected = expected_loss(trainer, torch.cat(taken), FACTS in words)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    expected.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-3, atol=1e-5)


def test_single_facts_have_no_bridge_and_splits_are_measured_by_their_answers(tmp_path: Path) -> None:
    rows = prepared(tmp_path).train_rows
    assert ((rows.bridge_N == IGNORED) == (rows.prompt_N == 2)).all()
    assert {(int(n), int(at)) for n, at in zip(rows.prompt_N, rows.place_N)} == {(2, 0), (3, 1)}
    logits, labels = torch.randn(4, 2, 9), torch.randint(9, (4, 2))
    objective = read_recipe(tmp_path / "tiny.yaml", [f"--objective={BRIDGE}"]).objective
    expected = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(objective.token_losses(logits, labels), expected)


@pytest.mark.parametrize(
    ("words", "text", "error"),
    [
        ((), RECIPE, "bridge is for a corpus that notes bridges, such as composition"),
        (("--objective.layer=2",), COMPOSITION, "objective.layer: 2 is not a middle one of the 2 blocks that run"),
        (("--model.n_layer=1",), COMPOSITION, "objective.layer: 0 is not a middle one of the 1 blocks"),
        (("--objective.place=3",), COMPOSITION, "objective.place: 3 is outside of prompts of 3 tokens"),
        (("--objective.place=-4",), COMPOSITION, "objective.place: -4 is outside of prompts of 3 tokens"),
    ],
)
def test_what_it_cannot_be_trained_on_is_said(words: tuple[str, ...], text: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=error.replace(".", r"\.")):
        prepared(tmp_path, *words, text=text)
