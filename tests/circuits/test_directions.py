"""Directions of two classes: a planted one is found, and what swapping it does is what a plain hook does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._directions import LOGISTIC, MEAN, PCA, RANDOM, directions
from pipeline.circuits._file_pairs import FilePairs
from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import Pairs
from pipeline.circuits.directions import DAS, Directions
from pipeline.corpora.group import Group
from pipeline.corpora.store import build
from pipeline.models.gpt2_bare import Gpt2Bare
from pipeline.utils.errors import MismatchError, ParameterError
from tests.circuits.small import random_model, random_pairs

METHODS = {MEAN, "k-means", PCA, LOGISTIC, DAS}
WIDTH = 16


def values(table: Any, **wanted: Any) -> list[float]:
    rows = table.to_pylist()
    return [row["value"] for row in rows if all(row[name] == value for name, value in wanted.items())]


def two_classes(n: int = 32) -> Pairs:
    """Token 0, and then one of tokens 1 to 4 for `up`, answered by 9, or one of 5 to 8 for `down`, answered by 10.

    Both halves of the prompts have each token equally often.
    """
    up, turn = np.arange(n) % 2 == 0, np.arange(n) // 4 % 4
    last, other = np.where(up, [1 + turn, 5 + turn], [5 + turn, 1 + turn])
    clean, corrupted = (np.stack([np.zeros(n), part], axis=1).astype(np.int32) for part in (last, other))
    answers, others = (np.where(side, 9, 10)[:, None].astype(np.int32) for side in (up, ~up))
    words = ["up" if one else "down" for one in up]
    return Pairs(clean, corrupted, answers, others, places=["start", "end"], metadata={"class": words})


@pytest.fixture(scope="module")
def planted() -> tuple[Any, np.ndarray[Any, Any]]:
    """The table of a model that writes classes along one direction and reads them there, and that direction.

    Beside that each token says a little for one of the answers, odd ones for 9 and even ones for 10.
    """
    rng = np.random.default_rng(1)
    direction = rng.normal(size=WIDTH)
    direction /= np.linalg.norm(direction)
    model: Any = Gpt2Bare(n_layer=1, n_embd=WIDTH, n_head=2, n_inner=WIDTH).build(WIDTH)
    aside = rng.normal(size=WIDTH)
    aside -= (aside @ direction) * direction
    aside /= np.linalg.norm(aside)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        sides = np.outer([0, 1, -1, 1, -1, 1, -1, 1, -1, *[0] * 7], 0.1 * aside)
        embedding = sides + np.outer([0, 1, 1, 1, 1, -1, -1, -1, -1, *[0] * 7], direction)
        model.transformer.wte.weight.copy_(torch.from_numpy(embedding))
        model.lm_head.weight[9] = torch.from_numpy(3 * direction + aside)
        model.lm_head.weight[10] = torch.from_numpy(-3 * direction)
    return Directions(das_steps=40).run(model, two_classes()), direction


def test_all_methods_find_the_planted_direction(planted: tuple[Any, Any]) -> None:
    table, _ = planted
    for layer in (0, 1):
        cosines = values(table, measure="cosine", layer=layer, position=1)
        assert len(cosines) == 10 and min(cosines) > 0.98
        assert values(table, measure="separates", layer=layer, position=1, method=MEAN) == [1.0]
    assert values(table, measure="cosine", position=0) == []  # every prompt begins alike


def test_swapping_and_removing_it_is_all_that_it_takes(planted: tuple[Any, Any]) -> None:
    table, direction = planted
    assert values(table, measure="accuracy") == [1.0]
    anywhere = directions(np.random.default_rng(3).normal(size=(8, WIDTH)), np.arange(8) % 2 == 0, 1)[RANDOM]
    share = (anywhere @ direction) ** 2  # of the planted coordinate that a random one, by the seed of place 1, carries
    for layer in (0, 1):
        for place in ("end", "all"):
            for method in METHODS:
                found = {name: values(table, measure=name, layer=layer, place=place, method=method)[0]
                         for name in ("patched", "flipped", "removed")}  # fmt: skip
                assert found["patched"] == pytest.approx(1, abs=0.05) and found["flipped"] == 1
                assert found["removed"] == pytest.approx(1)  # what is left says nothing of the class
            assert values(table, measure="removed", layer=layer, place=place, method=RANDOM) == [0.0]
            patched = values(table, measure="patched", layer=layer, place=place, method=RANDOM)
            assert patched == [pytest.approx(share, abs=0.05)] and share < 0.2
    assert values(table, measure="patched", place="start") == []


def test_a_swap_is_that_of_a_plain_hook() -> None:
    """Of a GPT-NeoX before its second block, at two positions of one place; the answers are the model's own."""
    model, plain = random_model("neox-parallel"), random_pairs(n=32)
    clean, corrupted = (torch.from_numpy(side).long() for side in (plain.clean, plain.corrupted))
    logits = model(clean).logits[:, -1]
    answers, others = (part.numpy().astype(np.int32)[:, None] for part in (logits.argmax(-1), logits.argmin(-1)))
    label = (plain.clean[:, 3] % 2 == 0).astype(int)
    places = ["a", "b", "b", "swapped", "swapped", "c", "d"]
    words = [str(one) for one in label]
    pairs = Pairs(plain.clean, plain.corrupted, answers, others, places=places, metadata={"class": words})
    table = Directions(das_steps=0).run(model, pairs)
    fitted = np.zeros(32, bool)
    for kind in (0, 1):
        fitted[np.flatnonzero(label == kind)[::2]] = True
    caught: dict[str, Any] = {}
    block = model.gpt_neox.layers[1]
    handle = block.register_forward_pre_hook(lambda module, inputs: caught.update(states=inputs[0].detach()))
    model(clean)
    handle.remove()
    states = caught["states"].numpy().astype(np.float64)
    first = label == label[0]
    along = states[fitted & first].mean(0) - states[fitted & ~first].mean(0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)

    def swap(module: Any, inputs: Any, source: Any) -> Any:
        value = inputs[0].detach().numpy().astype(np.float64)
        for at in (3, 4):
            value[:, at] += ((source[:, at] - value[:, at]) @ along[at])[:, None] * along[at]
        return (torch.from_numpy(value).float(), *inputs[1:])

    def ahead(tokens: Any, source: Any = None) -> Any:
        hook = block.register_forward_pre_hook(lambda m, i: swap(m, i, source)) if source is not None else None
        with torch.no_grad():
            found = model(tokens).logits[:, -1].double().numpy()
        if hook:
            hook.remove()
        rows = np.arange(len(tokens))
        return found[rows, answers[~fitted, 0]] - found[rows, others[~fitted, 0]]

    rest = np.flatnonzero(~fitted)
    before, after = ahead(clean[rest]), ahead(corrupted[rest])
    swapped = ahead(corrupted[rest], states[rest])
    mean = np.broadcast_to(states[fitted].mean(0), states[rest].shape)
    without = ahead(clean[rest], mean)
    here = {"layer": 1, "place": "swapped", "method": MEAN}
    share = (swapped - after).mean() / (before - after).mean()
    assert values(table, measure="patched", **here) == [pytest.approx(share, rel=1e-3)] and abs(share) > 0.01
    assert values(table, measure="flipped", **here) == [pytest.approx((swapped > 0).mean())]
    lost = ((before > 0).mean() - (without > 0).mean()) / ((before > 0).mean() - 0.5)
    assert values(table, measure="removed", **here) == [pytest.approx(lost, abs=1e-6)]


def test_directions_are_those_of_other_libraries() -> None:
    rng = np.random.default_rng(2)
    first = np.arange(60) % 2 == 0
    states = rng.normal(size=(60, 5)) * [3, 1, 1, 1, 1] + np.outer(first, [0, 2, 0, 0, 1]) + 7
    found = directions(states, first, 0)
    values, vectors = np.linalg.eigh(np.cov(states.T))
    assert abs(found[PCA] @ vectors[:, values.argmax()]) == pytest.approx(1)
    centred = states - states.mean(0)
    centred /= np.sqrt((centred**2).sum() / 60)

    inputs, sign = torch.from_numpy(centred), torch.from_numpy(np.where(first, 1.0, -1.0))
    weights = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Any:
        solver.zero_grad()
        margin = (inputs @ weights[:5] + weights[5]) * sign
        value = torch.nn.functional.softplus(-margin).sum() + (weights[:5] ** 2).sum() / 2
        value.backward()
        return value

    solver.step(loss)
    best = weights.detach().numpy()[:5]
    assert found[LOGISTIC] @ best / np.linalg.norm(best) == pytest.approx(1, abs=1e-4)
    assert not any(vector.any() for vector in directions(np.ones((6, 4)), first[:6], 0).values())


def test_classes_are_two_answers_of_any_corpus() -> None:
    source = CorpusPairs(build(Group(group="Z11", template="a b = c")))
    pairs = source.classes("id", 12, 0, ("3", "5"))
    sums = (pairs.clean[:, 0] + pairs.clean[:, 1]) % 11
    assert sums.tolist() == [3, 5] * (len(pairs) // 2) and len(pairs) >= 6
    assert pairs.metadata["class"] == [str(one) for one in sums]
    assert ((pairs.corrupted[:, 0] + pairs.corrupted[:, 1]) % 11).tolist() == [5, 3] * (len(pairs) // 2)
    assert len(set(source.classes("id", 12, 0).metadata["class"])) == 2
    with pytest.raises(ParameterError, match="classes: no answer of these prompts is '12'"):
        source.classes("id", 12, 0, ("3", "12"))
    with pytest.raises(ParameterError, match="classes: 3, 3: are not two different answers"):
        source.classes("id", 12, 0, ("3", "3"))


def test_classes_of_a_file_are_a_column_or_its_answers(tmp_path: Path) -> None:
    rows = [{"clean": [i], "corrupted": [i + 9], "answer": [1 + i % 3], "corrupted_answer": [5]} for i in range(9)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert FilePairs(path, None).classes("", 9, 0).metadata["class"] == ["1", "2", "3"] * 3
    chosen = FilePairs(path, None).classes("", 5, 0, ("1", "3"))
    assert chosen.metadata["class"] == ["1", "3"] * 2 + ["1"] and chosen.clean[:, 0].tolist() == [0, 2, 3, 5, 6]
    path.write_text("\n".join(json.dumps({**row, "class": "ab"[i > 4]}) for i, row in enumerate(rows)))
    assert FilePairs(path, None).classes("", 9, 0).metadata["class"] == ["a"] * 5 + ["b"] * 4
    with pytest.raises(ParameterError, match="classes: no prompt is of 'c'"):
        FilePairs(path, None).classes("", 9, 0, ("a", "c"))


def test_what_is_not_two_classes_is_refused() -> None:
    with pytest.raises(MismatchError, match="looks at two classes, of 4 prompts at least; here are none"):
        Directions().run(random_model("gpt2"), random_pairs())
    with pytest.raises(MismatchError, match="of 4 prompts at least; here are 3 of up, 3 of down"):
        Directions().run(random_model("gpt2"), two_classes(6))
    with pytest.raises(MismatchError, match="position 2 is none of the 2 that the prompts have"):
        Directions(position=2).run(random_model("gpt2"), two_classes())
