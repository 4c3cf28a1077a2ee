"""Batches cut by length: every row fits its piece, little is padded, and logits are those of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.buckets import MOST, WORTH, Shape, widths
from pipeline.data.labels import IGNORED
from pipeline.data.rows import Rows, from_lists
from pipeline.kernels.forward import install, short_logits, stock_logits
from pipeline.models.gpt2 import Gpt2
from pipeline.models.pythia import Pythia


@given(st.lists(st.integers(1, 80), min_size=1, max_size=200))
@settings(max_examples=80, deadline=None)
def test_every_row_fits_and_every_cut_is_worth_it(lengths: list[int]) -> None:
    found = widths(torch.tensor(lengths))
    assert found == sorted(set(found)) and set(found) <= set(lengths) and found[-1] == max(lengths)
    assert len(found) <= MOST

    def tokens(bounds: Sequence[int]) -> int:
        return sum(min(bound for bound in bounds if bound >= length) for length in lengths)

    for bound in found[:-1]:  # the cuts came one after the other, so the one without any of them saves at least that
        assert tokens(found) < tokens([other for other in found if other != bound])
    if len(found) > 1:
        assert tokens(found) <= (1 - WORTH) * tokens(found[-1:])


def test_rows_that_differ_by_a_token_stay_together() -> None:
    assert widths(torch.tensor([4] * 10 + [5] * 90)) == [5]
    assert widths(torch.tensor([12] * 90 + [64] * 10)) == [12, 64]


def sentences() -> Rows:
    """Short facts with one or two answer tokens, among blocks of text of which every token is trained."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 50, (count,), generator=generator).tolist()

    prompts = [tokens(4) for _ in range(9)] + [tokens(1) for _ in range(3)]
    answers = [tokens(1 + number % 2) for number in range(9)] + [tokens(15) for _ in range(3)]
    return from_lists(prompts, answers)


@pytest.mark.parametrize("architecture", [Gpt2(n_layer=2, n_embd=32, n_head=2, n_positions=16, dropout=0.0), Pythia(
    n_layer=2, n_embd=32, n_head=2, n_positions=16)], ids=["gpt2", "pythia"])  # fmt: skip
def test_logits_of_pieces_are_those_of_the_whole_batch(architecture: Gpt2 | Pythia) -> None:
    torch.manual_seed(0)
    rows, model = sentences(), architecture.build(50).eval()
    assert rows.cuts[1] == [Shape(6, 2, False, None), Shape(16, 15, True, 15)]
    chosen = torch.tensor([11, 0, 3, 10, 8, 0])
    whole, pieces = rows.__getitems__(chosen), rows.pieces(chosen)
    assert sorted(len(piece["input_ids"]) for piece in pieces) == [2, 4]
    expected = stock_logits(model, whole)[whole["labels"] != IGNORED]
    install(model)
    found = [short_logits(model, piece) for piece in pieces]
    kept = torch.cat([logits[piece["labels"] != IGNORED] for logits, piece in zip(found, pieces)])
    # The answers of a piece stand together: facts first, then text.
    order = torch.cat([torch.tensor([1, 2, 4, 5]), torch.tensor([0, 3])])
    spans = (whole["labels"] != IGNORED).sum(1).tolist()
    parts = expected.split(spans)
    torch.testing.assert_close(kept, torch.cat([parts[place] for place in order]), rtol=0, atol=3e-6)
    labels = torch.cat([piece["labels"][piece["labels"] != IGNORED] for piece in pieces])
    whole_labels = whole["labels"][whole["labels"] != IGNORED].split(spans)
    assert torch.equal(labels, torch.cat([whole_labels[place] for place in order]))
