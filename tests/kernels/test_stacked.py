"""Updates of several models at once are those of each by plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.data.rows import Rows
from pipeline.kernels.stacked import IDLE, AdamW, Stacked

RUNS = 3
ROWS = Rows(
    torch.randint(0, 13, (40, 5), generator=torch.Generator().manual_seed(9)),
    torch.full((40,), 4),
    torch.full((40,), 1),
)


def losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels)


def models() -> tuple[list[Any], list[torch.optim.AdamW]]:
    """Models of several seeds, and optimizers that differ in all that AdamW has."""
    found: tuple[list[Any], list[torch.optim.AdamW]] = ([], [])
    for run in range(RUNS):
        torch.manual_seed(run)
        config = GPT2Config(vocab_size=13, n_embd=16, n_head=2, n_layer=2, n_positions=8, bos_token_id=None,
                            eos_token_id=None, resid_pdrop=0, attn_pdrop=0, embd_pdrop=0)  # fmt: skip
        model = GPT2LMHeadModel(config)
        matrices, others = ([w for w in model.parameters() if (w.ndim > 1) is wanted] for wanted in (True, False))
        groups = [{"params": matrices, "weight_decay": 0.2 * run}, {"params": others, "weight_decay": 0.0}]
        found[0].append(model)
        found[1].append(torch.optim.AdamW(groups, lr=1e-3 * (run + 1), betas=(0.8 + 0.05 * run, 0.98), eps=1e-7))
    return found


def test_updates_are_those_of_torch() -> None:
    (ours, optimizers), (theirs, plain) = models(), models()
    stacked = Stacked(ours, optimizers, ROWS, losses)
    adamw = [AdamW.of(optimizer, 0.5) for optimizer in optimizers]
    draws = torch.Generator().manual_seed(1)
    for step in range(1, 31):
        rows_RB = torch.randint(0, 40, (RUNS, 8), generator=draws)
        numbers = torch.tensor([each.numbers(1e-3 * (run + 1), step) for run, each in enumerate(adamw)])
        loss_R, norm_R = stacked.update(rows_RB, numbers.T, torch.arange(RUNS))
        for run in range(RUNS):
            batch = ROWS.__getitems__(rows_RB[run])
            loss = losses(theirs[run](batch["input_ids"]).logits[:, -1:], batch["labels"]).mean()
            plain[run].zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(theirs[run].parameters(), 0.5)
            plain[run].step()
            torch.testing.assert_close(torch.stack([loss_R[run], norm_R[run]]), torch.stack([loss.detach(), norm]),
                                       rtol=1e-4, atol=1e-5)  # fmt: skip
    for run in range(RUNS):
        stacked.count(run, 30)
        for weight, other in zip(ours[run].parameters(), theirs[run].parameters()):
            torch.testing.assert_close(weight, other, rtol=0, atol=1e-4)
        state, other_state = optimizers[run].state_dict()["state"], plain[run].state_dict()["state"]
        assert state.keys() == other_state.keys() and int(state[0]["step"]) == int(other_state[0]["step"]) == 30
        torch.testing.assert_close(state[0]["exp_avg_sq"], other_state[0]["exp_avg_sq"], rtol=1e-2, atol=1e-8)
        assert state[0]["exp_avg"].untyped_storage().nbytes() == 4 * state[0]["exp_avg"].numel()


def test_a_run_that_was_released_stays_as_it_is_and_the_others_go_on() -> None:
    (ours, optimizers), (alone, others) = models(), models()
    stacked, two = Stacked(ours, optimizers, ROWS, losses), Stacked(alone[:2], others[:2], ROWS, losses)
    numbers = torch.tensor([AdamW.of(optimizer, 1.0).numbers(1e-3, 1) for optimizer in optimizers])
    rows_RB = torch.arange(24).view(RUNS, 8)
    stacked.update(rows_RB, numbers.T, torch.arange(RUNS))
    two.update(rows_RB[:2], numbers[:2].T, torch.arange(2))
    stacked.release(2)
    kept = [weight.clone() for weight in ours[2].parameters()]
    moment = optimizers[2].state[next(ours[2].parameters())]["exp_avg"].clone()
    numbers[2] = torch.tensor(IDLE)
    for _ in range(3):
        loss_R, _ = stacked.update(rows_RB, numbers.T, torch.arange(RUNS))
        two.update(rows_RB[:2], numbers[:2].T, torch.arange(2))
    assert all(torch.equal(weight, before) for weight, before in zip(ours[2].parameters(), kept))
    assert torch.equal(optimizers[2].state[next(ours[2].parameters())]["exp_avg"], moment) and loss_R.isfinite().all()
    for run in range(2):
        for weight, other in zip(ours[run].parameters(), alone[run].parameters()):
            torch.testing.assert_close(weight, other, rtol=0, atol=1e-6)
