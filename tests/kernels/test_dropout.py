"""Dropout by keys: as much is dropped as is to be, everywhere alike, and forward and gradient as transformers'."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.kernels.dropout import Masks, dropout, masked_by
from pipeline.kernels.stacked import Stacked
from tests.kernels.test_stacked import ROWS, losses

MASK64 = 2**64 - 1


def mixed(z: int) -> int:
    """SplitMix64's output function in whole numbers of any size (Steele et al. 2014, figure 13)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def word(key: int, place: int) -> int:
    return mixed((key + (place + 1) * 0x9E3779B97F4A7C15) & MASK64)


@pytest.mark.parametrize("key", [0, 77, 2**63 - 1])
def test_masks_are_the_bits_of_splitmix64(key: int) -> None:
    masks, ones = Masks(torch.tensor(key)), torch.ones(3, 7)
    for site in range(3):
        begin = word(key, site)
        bits = [(word(begin, place) >> shift) & 0xFFFF for place in range(6) for shift in (0, 16, 32, 48)][:21]
        expected = torch.tensor([bit >= 19661 for bit in bits]).view(3, 7)  # 0.3 of 65,536
        assert torch.equal(masks(ones, 0.3), expected * (65536 / (65536 - 19661)))


def test_runs_have_masks_of_their_own_under_vmap() -> None:
    keys_R, ones = torch.tensor([5, 6, 5]), torch.ones(40, 50)

    def one(key: torch.Tensor) -> torch.Tensor:
        with masked_by(Masks(key)):
            return dropout(ones, 0.5, training=True)

    found = vmap(one)(keys_R)
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], Masks(torch.tensor(6))(ones, 0.5))
    assert (found[0] == found[1]).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_logits_with_dropout_are_distributed_as_transformers_are() -> None:
    """Mean and deviation of every logit over 4,000 draws; of the mean, within five standard errors."""
    draws = 4000
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=13, n_embd=16, n_head=2, n_layer=2, n_positions=8, bos_token_id=None,
                        eos_token_id=None, resid_pdrop=0.2, attn_pdrop=0.2, embd_pdrop=0.2)  # fmt: skip
    model = GPT2LMHeadModel(config)
    for weight in model.parameters():
        weight.data.mul_(4 if weight.ndim > 1 else 1)
    tokens_BL = torch.randint(0, 13, (1, 4))
    expected = model.train()(input_ids=tokens_BL.expand(draws, 4)).logits[:, -1].detach().double()
    stacked = Stacked([model], [torch.optim.AdamW(model.parameters())], ROWS, losses)
    weights = {name: part.detach().expand(draws, *part.shape[1:]) for name, part in stacked.leaves.items()}
    batch = {"input_ids": tokens_BL, "positions": torch.tensor([[3]]), "tail": 1}
    found = stacked.logits(weights, batch, torch.arange(draws) * 977)[:, 0, 0].double()
    errors = (expected.var(0) * 2 / draws).sqrt()
    assert ((found.mean(0) - expected.mean(0)).abs() < 5 * errors).all()
    assert F.l1_loss(found.std(0) / expected.std(0), torch.ones(13).double()) < 0.03
