"""What generation promises of every architecture: padding, caches, beams and pieces of a text change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from pipeline.config.registry import load, names
from pipeline.corpora.group import Group
from pipeline.corpora.store import StoredCorpus, build

NEW = 4


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(Group.tiny())


@pytest.fixture(params=names("models"))
def model(request: pytest.FixtureRequest, stored: StoredCorpus, tmp_path: Path) -> Any:
    """A tiny model whose answers depend on what it reads: fresh weights are so small that they hardly do."""
    torch.manual_seed(0)
    found: Any = load("models", request.param, "model").tiny(tmp_path / "base").for_corpus(stored).eval()
    with torch.no_grad():
        for weight in found.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    return found


def drawn(model: Any, length: int) -> torch.Tensor:
    return torch.randint(0, model.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_the_left_changes_nothing(model: Any, attention: str) -> None:
    model.set_attn_implementation(attention)
    tokens = drawn(model, 5)
    padded = torch.cat([torch.full((2, 3), 5), tokens], 1)
    mask = (torch.arange(8) >= 3).long().expand(2, 8)
    place = (mask.cumsum(1) - 1).clamp(min=0)
    alone = model(tokens).logits
    assert (alone - model(tokens.roll(1, 1)).logits)[:, -1].abs().max() > 0.1  # what is read decides
    with_padding = model(padded, attention_mask=mask, position_ids=place).logits[:, 3:]
    torch.testing.assert_close(with_padding, alone, atol=1e-4, rtol=1e-4)
    decoded = model.generate(tokens, max_new_tokens=NEW, do_sample=False)
    both = model.generate(padded, attention_mask=mask, max_new_tokens=NEW, do_sample=False)
    assert both[:, 8:].equal(decoded[:, 5:])


@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
def test_beams_and_caches_give_what_no_cache_does(model: Any, more: dict[str, Any]) -> None:
    tokens = drawn(model, 5)
    options = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    beams = {key: value for key, value in more.items() if key == "num_beams"}
    expected = model.generate(tokens, use_cache=False, **options, **beams)
    assert model.generate(tokens, **options, **more).equal(expected)


@pytest.mark.parametrize("cache", [DynamicCache, StaticCache])
def test_a_text_in_pieces_is_the_text(model: Any, cache: Any) -> None:
    tokens = drawn(model, 10)
    past = cache(config=model.config, **({"max_cache_len": 12} if cache is StaticCache else {}))
    parts = [model(piece, past_key_values=past, use_cache=True).logits for piece in tokens.split([4, 1, 3, 2], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens).logits, atol=1e-4, rtol=1e-4)
