"""Each key of an analysis turned alone: it changes the table, or it is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import Pairs
from pipeline.config.fields import parameters_of
from pipeline.corpora.composition import Composition
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.errors import MismatchError
from tests.circuits.small import tokens_of
from tests.circuits.test_contract import ANALYSES, KINDS, TINY, corpora, fitting, others, tiny_model
from tests.turned import turned

__all__ = ["corpora"]  # a fixture

# Which steps, and which pairs, are looked at: tests of the runner and of pairs turn these.
CHOICE = {"steps", "split", "pairs", "seed"}
# Keys that need models and pairs of a kind, and are turned where these are: test_barrier, test_components and so on.
ELSEWHERE = {
    ("barrier", "other"), ("barrier", "align"), ("components", "copies"), ("directions", "classes"),
    ("latent_space", "points"),
}  # fmt: skip
KEYS = [
    (name, field.name)
    for name in ANALYSES
    for field in parameters_of(KINDS[name])
    if field.name not in CHOICE | set(KINDS[name].unused) and (name, field.name) not in ELSEWHERE
]
# Values of keys that a value near the one there is does not move.
VALUES: dict[tuple[str, str], Any] = {
    ("faithfulness", "shares"): (0.5, 1.0),
    ("fourier", "least"): 1e-6,
    ("information_gain", "gate"): 1000.0,
    ("loops", "tolerance"): 10.0,
    ("tuned_lens", "states"): 4,
}
MODELS = {"loops": "gpt2_looped"}  # of analyses for which it makes a difference


@pytest.fixture(scope="module")
def many(corpora: list[StoredCorpus]) -> list[StoredCorpus]:
    """Two-hop facts, of which there are more pairs than of the tiny ones, and then the others."""
    facts = build(Composition(num_entities=30, num_relations=6, out_degree=6, ratio=3.0))
    return [facts, *corpora]


def own_answers(model: Any, pairs: Pairs) -> Pairs:
    """The pairs with what the model answers, so that there is a behaviour."""
    with torch.no_grad():
        clean, corrupted = (
            model(tokens_of(side)).logits[:, -1].argmax(-1).numpy() for side in (pairs.clean, pairs.corrupted)
        )
    found = dataclasses.replace(pairs, answers=clean[:, None], corrupted_answers=corrupted[:, None])
    return found.take(clean != corrupted)


@pytest.mark.parametrize(("name", "key"), KEYS, ids=map(".".join, KEYS))
def test_each_key_changes_the_table(name: str, key: str, many: list[StoredCorpus]) -> None:
    analysis: Any = TINY[name]
    stored, _ = fitting(analysis, many[1:] if name == "directions" else many)  # which needs two answers
    torch.manual_seed(0)
    made = tiny_model((analysis.only or (MODELS.get(name, "gpt2"),))[0])
    model = made.build(len(stored.tokens)).eval()
    with torch.no_grad():  # fresh weights do hardly anything
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)

    def table(one: Any) -> Any:
        pairs = one.choose(CorpusPairs(stored))
        return one.run(model, own_answers(model, pairs) if name == "faithfulness" else pairs, **others(one, model))

    before = table(analysis)
    value = VALUES.get((name, key))
    found: Any = list(turned(analysis, key)) if value is None else [dataclasses.replace(analysis, **{key: value})]
    changed = any(not table(other).equals(before) for other in found)
    assert changed, f"{name}.{key} changes no number of the tiny table: give it another value in VALUES"


def test_keys_of_loops_are_refused_for_a_model_without_them(corpora: list[StoredCorpus]) -> None:
    stored, pairs = fitting(TINY["loops"], corpora)
    for key, value in (("most", 3), ("discrete", 0.5)):
        analysis = dataclasses.replace(TINY["loops"], **{key: value})
        analysis.check(tiny_model("gpt2_looped").build(len(stored.tokens)), pairs)
        with pytest.raises(MismatchError, match=f"{key} would change nothing in GPT2LMHeadModel"):
            analysis.check(tiny_model("gpt2").build(len(stored.tokens)), pairs)
