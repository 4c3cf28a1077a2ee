"""Rows, their order, and logits at answer positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from pipeline.corpora.composition import Composition
from pipeline.corpora.store import StoredCorpus, build
from pipeline.data.rows import AnswerPositions, RowOrder, Rows, load_rows, loader
from pipeline.models.gpt2 import Gpt2
from pipeline.models.gpt2_bare import Gpt2Bare
from pipeline.models.gpt2_looped import Gpt2Looped
from pipeline.models.pythia import Pythia

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 16, "dropout": 0.0}
MODELS = [
    Gpt2(**SIZES),
    Gpt2Bare(**SIZES),
    Gpt2Looped(**SIZES),
    Pythia(**SIZES),
    Pythia(**SIZES, parallel_residual=False),
]


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(Composition(num_entities=40, num_relations=8, out_degree=4, ratio=2, ood_fraction=0.2, seed=3))


@pytest.fixture(scope="module")
def rows(stored: StoredCorpus) -> Rows:
    return load_rows(stored, "train")


def order(rows: int, batch: int, step: int = 0, micro: int | None = None, rank: int = 0, ranks: int = 1) -> RowOrder:
    micro = micro or batch // ranks
    return RowOrder(rows, batch, micro=micro, rank=rank, ranks=ranks, seed=5, updates_done=lambda: step)


@given(rows=st.integers(1, 200), share=st.floats(0, 1), passes=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_pass_shows_every_row_once_and_every_batch_is_full(rows: int, share: float, passes: int) -> None:
    batch = max(1, round(share * rows))
    stream = order(rows, batch)
    updates = [stream.update_rows(update) for update in range(-(-passes * rows // batch))]
    assert all(len(update) == batch for update in updates)
    drawn = torch.cat(updates)
    for start in range(0, passes * rows, rows):
        assert sorted(drawn[start : start + rows].tolist()) == list(range(rows))
    if rows > 20 and passes > 1:
        assert drawn[:rows].tolist() != drawn[rows : 2 * rows].tolist()


@given(
    rows=st.integers(24, 200),
    ranks=st.sampled_from([1, 2, 4]),
    micros=st.sampled_from([1, 2, 3]),
    epoch=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_the_order_depends_on_the_global_batch_alone(rows: int, ranks: int, micros: int, epoch: int) -> None:
    whole = order(rows, 24)
    step = epoch * whole.updates_per_epoch
    parts = [list(order(rows, 24, step, 24 // (ranks * micros), rank, ranks)) for rank in range(ranks)]
    for update in range(whole.updates_per_epoch):
        taken = [parts[rank][update * micros + micro] for micro in range(micros) for rank in range(ranks)]
        assert torch.cat(taken).equal(whole.update_rows(step + update))


def test_an_epoch_starts_where_the_trainer_stands() -> None:
    # 50 rows in batches of 16 are 4 updates an epoch; update 6 lies in the second.
    assert torch.cat(list(order(50, 16, step=6))).equal(torch.cat([order(50, 16).update_rows(u) for u in (4, 5, 6, 7)]))


def test_batches_name_the_answers(stored: StoredCorpus, rows: Rows) -> None:
    text = [
        (prompt + answer, len(prompt))
        for block in stored.blocks("train")
        for prompt, answer in zip(block.prompts.tolist(), block.answers.tolist())
    ]
    assert {len(tokens) for tokens, _ in text} == {4, 5}  # atomic and inferred facts, of different lengths
    chosen = torch.tensor([0, len(text) - 1, 7, 7])
    batch = rows.__getitems__(chosen)
    for i, row in enumerate(chosen.tolist()):
        tokens, prompt = text[row]
        assert batch["labels"][i].tolist() == tokens[prompt:]
        assert batch["positions"][i].tolist() == [prompt - 1, prompt]
        assert batch["input_ids"][i, : len(tokens) - 1].tolist() == tokens[:-1]


def test_short_answers_are_padded_with_ignored_labels() -> None:
    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 9]])
    rows = Rows(tokens, torch.tensor([1, 2]), torch.tensor([3, 1]))
    assert not rows.shape.is_even
    batch = rows.__getitems__(torch.tensor([0, 1]))
    assert batch["labels"].tolist() == [[2, 3, 4], [3, -100, -100]]
    assert batch["positions"].tolist() == [[0, 1, 2], [1, 1, 1]]


@pytest.mark.parametrize("architecture", MODELS, ids=["gpt2", "bare", "looped", "pythia", "pythia-sequential"])
def test_logits_at_answer_positions_are_those_of_the_unpadded_model(
    architecture: Gpt2 | Pythia, stored: StoredCorpus, rows: Rows
) -> None:
    torch.manual_seed(0)
    model: PreTrainedModel = architecture.build(len(stored.tokens)).eval()
    head = AnswerPositions(model.get_output_embeddings())
    batch = rows.__getitems__(torch.tensor([0, 3, len(rows) - 1, len(rows) - 2]))
    logits = head.logits(model, batch)
    assert logits.shape == (4, 2, len(stored.tokens))
    for i, row in enumerate([0, 3, len(rows) - 1, len(rows) - 2]):
        length = int(rows.prompt_N[row] + rows.answer_N[row])
        alone = model(input_ids=rows.tokens_NT[row : row + 1, : length - 1]).logits
        torch.testing.assert_close(logits[i], alone[0, batch["positions"][i]], rtol=0, atol=2e-6)
    # Without positions the model is as it was.
    assert model(input_ids=batch["input_ids"]).logits.shape == (*batch["input_ids"].shape, len(stored.tokens))


def test_gradients_through_answer_positions_are_those_of_the_whole_model(stored: StoredCorpus, rows: Rows) -> None:
    torch.manual_seed(0)
    model = MODELS[0].build(len(stored.tokens))
    batch = rows.__getitems__(torch.arange(0, len(rows), 9))
    AnswerPositions(model.get_output_embeddings()).logits(model, batch).logsumexp(-1).sum().backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    logits = model(input_ids=batch["input_ids"]).logits
    places = batch["positions"][..., None].expand(-1, -1, logits.shape[-1])
    logits.gather(1, places).logsumexp(-1).sum().backward()
    for one, parameter in zip(ours, model.parameters()):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-5, atol=1e-5)


def test_a_probe_is_the_same_rows_every_time(stored: StoredCorpus, rows: Rows) -> None:
    probe = load_rows(stored, "train", most=20)
    assert len(probe) == 20
    assert probe.tokens_NT.equal(load_rows(stored, "train", most=20).tokens_NT)
    everything = {tuple(row) for row in rows.tokens_NT.tolist()}
    assert {tuple(row) for row in probe.tokens_NT.tolist()} <= everything


def test_the_loader_gives_the_batches_of_the_order(rows: Rows) -> None:
    stream = order(len(rows), 32)
    batches = list(loader(rows, stream))
    assert len(batches) == len(stream) == -(-len(rows) // 32)
    assert batches[1]["input_ids"].equal(rows.tokens_NT[stream.update_rows(1)][:, :-1])
