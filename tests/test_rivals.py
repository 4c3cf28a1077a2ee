"""Rivals of the benchmarks compute what they are compared by: needs the extra `rivals`."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.tiny import ROOT

pytest.importorskip("jax", reason="the extra rivals is not installed")
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
from baselines import Setting
from bench_step import SMALL
from jax_scan import DECAY, RATE, UPDATES, JaxScan


def test_the_scan_in_jax_trains_as_torch_does() -> None:
    """Without dropout, two scans on the same rows; gradients are clipped in both."""
    setting = Setting.of(SMALL[0], torch.device("cpu"))
    rows = setting.rows
    draws = np.random.default_rng(1)
    order = np.stack([draws.choice(len(rows.tokens_NT), 32, replace=False) for _ in range(2 * UPDATES)])
    rival = JaxScan(setting, dropout=0.0)
    found = np.concatenate([rival.run(half) for half in np.split(order, 2)])
    model = setting.model(setting.vocabulary).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    places = rows.prompt_N[:, None] + torch.arange(rows.shape.answer)
    for update, chosen in enumerate(map(torch.from_numpy, order)):
        tokens, place = rows.tokens_NT[chosen], places[chosen]
        logits = model(tokens[:, :-1]).logits[torch.arange(32)[:, None], place - 1]
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.gather(1, place).flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert found[update] == pytest.approx(loss.item(), rel=1e-4), update
    assert loss.item() < 0.97 * found[0]
