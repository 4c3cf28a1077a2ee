"""The loss of tokens ahead against its sum, target by target; and which models it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.recipe import read_recipe
from pipeline.training.session import prepare
from pipeline.utils.errors import ParameterError
from tests.tiny import COMPOSITION, write_recipe

MODEL = COMPOSITION.replace("name: gpt2,", "name: gpt2_future_tokens, n_future: 3, n_pseudo: 2,")


def prepared(folder: Path, text: str, tokens: str) -> Any:
    words = [f"--objective={{name: future_tokens, decay: 0.5, tokens: {tokens}}}", "--model.dropout=0"]
    trainer = prepare(read_recipe(write_recipe(folder, text), [*words, f"--output_dir={folder / 'run'}"]))
    trainer.create_optimizer_and_scheduler(1)
    return trainer


@pytest.mark.parametrize("tokens", ["all", "answer"])
def test_an_update_is_that_of_the_formula(tokens: str, tmp_path: Path) -> None:
    trainer = prepared(tmp_path, MODEL, tokens)
    model = trainer.model.eval()
    (index,) = (index for index, _ in zip(trainer.get_train_dataloader().batch_sampler, range(1)))
    batch = trainer.train_rows.__getitems__(index)
    items = trainer._get_num_items_in_batch([batch], trainer.args.device)
    found = trainer.compute_loss(model, batch, num_items_in_batch=items)
    blocks = list(trainer.folder.stored.blocks("train"))
    rows = [(prompt, answer) for block in blocks for prompt, answer in zip(block.prompts, block.answers)]
    total, targets = torch.zeros(()), 0
    for row in index.tolist():
        prompt, answer = (part.tolist() for part in rows[row])
        text = torch.tensor([*prompt, *answer])
        first = 1 if tokens == "all" else len(prompt)
        output = model(text[None, :-1], future=True)
        for place in range(first, len(text)):
            total = total - output.logits[0, place - 1].log_softmax(-1)[text[place]]
            targets += 1
            for ahead in (1, 2):
                if place + ahead < len(text):
                    log_p = output.future_logits[0, place - 1, ahead - 1].log_softmax(-1)
                    total = total - 0.5**ahead * log_p[text[place + ahead]]
    torch.testing.assert_close(found, total / targets, rtol=1e-4, atol=1e-5)


def test_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"objective\.name: future_tokens needs a model that predicts several"):
        prepared(tmp_path, COMPOSITION, "all")
