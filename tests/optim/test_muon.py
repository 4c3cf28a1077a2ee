"""Muon in a run: the steps of torch's own Muon and AdamW, each of its weights, under one schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pipeline.config.recipe import read_recipe
from pipeline.training.session import prepare
from tests.tiny import run_here, write_recipe

WORDS = ("--optimizer", "{muon: {learning_rate: 0.02, momentum: 0.9}}", "--weight_decay", "0.1", "--max_grad_norm", "0")
WORDS += ("--model.dropout", "0")


def test_a_run_takes_the_steps_of_torch_s_muon_and_adamw(tmp_path: Path) -> None:
    words = (
        *WORDS,
        "--max_steps",
        "4",
        "--save_strategy",
        "no",
        "--lr_scheduler_type",
        "linear",
        "--warmup_steps",
        "2",
    )
    trainer = prepare(read_recipe(write_recipe(tmp_path), ["--output_dir", str(tmp_path / "run"), *words]))
    model, args = trainer.model, trainer.args
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    batches = [trainer.train_rows.__getitems__(rows) for rows in _rows(trainer, 4)]
    trainer.train()
    ended = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(start[name])
    weights = dict(model.named_parameters())
    matrices = {name: w for name, w in weights.items() if w.ndim == 2 and "wte" not in name and "wpe" not in name}
    embeddings = [w for name, w in weights.items() if w.ndim == 2 and name not in matrices]
    vectors = [w for w in weights.values() if w.ndim == 1]
    muon = torch.optim.Muon(matrices.values(), lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": embeddings, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(
        groups, lr=args.learning_rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon
    )
    rates = [(group, group["lr"]) for optimizer in (muon, adam) for group in optimizer.param_groups]
    for batch, share in zip(batches, (0.0, 0.5, 1.0, 0.5)):
        for group, rate in rates:
            group["lr"] = rate * share
        tokens, labels = batch["input_ids"], batch["labels"]
        model.zero_grad()
        logits = model(input_ids=tokens).logits[:, -labels.shape[1] :]
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        muon.step()
        adam.step()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, ended[name], rtol=1e-3, atol=2e-4, msg=name)
        assert not weight.equal(start[name])


def _rows(trainer: object, updates: int) -> list[torch.Tensor]:
    loader = trainer.get_train_dataloader()
    return [loader.batch_sampler.update_rows(update) for update in range(updates)]


def test_two_whole_optimizers_and_their_shards_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(write_recipe(tmp_path), "--optimizer.muon.ns_steps", "0") == 2
    assert "optimizer.muon.ns_steps: 0 is not a whole number >= 1" in capsys.readouterr().err
