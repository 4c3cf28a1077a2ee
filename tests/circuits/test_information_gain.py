"""Losses against plain transformers, thresholds against trying all of them, and the gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import Pairs
from pipeline.circuits.information_gain import InformationGain, judged
from pipeline.corpora.composition import Composition
from pipeline.corpora.store import StoredCorpus, as_text, build
from pipeline.corpora.vector_chain import VectorChain
from pipeline.models.gpt2 import Gpt2
from pipeline.utils.errors import MismatchError, ParameterError
from tests.circuits.small import random_model, random_pairs

Rows = dict[tuple[str, str, int], float | None]


def rows_of(table: Any) -> Rows:
    return {(row["measure"], row["of"], row["prefix"]): row["value"] for row in table.to_pylist()}


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(VectorChain(fault="conditional", train_size=50, test_size=30))


@pytest.fixture(scope="module")
def model(stored: StoredCorpus) -> Any:
    torch.manual_seed(0)
    return Gpt2(n_layer=1, n_embd=16, n_head=2, n_positions=48).build(len(stored.tokens)).eval()


def by_hand(model: Any, stored: StoredCorpus) -> dict[str, list[tuple[list[float], list[float]]]]:
    """Of each chain, from its text alone: losses and probabilities of a right end, by how many steps are shown."""
    ids = {token: number for number, token in enumerate(stored.tokens)}
    found: dict[str, list[tuple[list[float], list[float]]]] = {"right": [], "wrong": []}
    for block in stored.blocks("id"):
        texts = zip(as_text(stored, block.prompts).to_pylist(), as_text(stored, block.answers).to_pylist())
        for prompt, answer in texts:
            vectors = prompt.removesuffix(" #|>").split(" || ")
            losses, ends = [], []
            for shown in range(1, 7):
                text = " || ".join(vectors[:shown]).split()
                tokens = torch.tensor([[ids[word] for word in (*text, "#|>", *answer.split())]])
                log_p = model(tokens).logits[0].double().log_softmax(-1)
                losses.append(-sum(float(log_p[place - 1, tokens[0, place]]) for place in range(-5, 0)))
                asked = torch.tensor([[ids[word] for word in (*text, "ok?")]])
                ends.append(float(model(asked).logits[0, -1].double().softmax(-1)[ids["yes"]]))
            found["right" if vectors[-1] == answer else "wrong"].append((losses, ends))
    return found


def test_it_measures_what_plain_transformers_do(model: Any, stored: StoredCorpus) -> None:
    analysis = InformationGain(pairs=500, gate=1e9)
    found = rows_of(analysis.run(model, analysis.choose(CorpusPairs(stored))))
    with torch.no_grad():
        expected = by_hand(model, stored)
    assert sum(map(len, expected.values())) == 30 and all(expected.values())
    for kind, chains in expected.items():
        losses, ends = (np.array(part).mean(0) for part in zip(*chains))
        for prefix in range(6):
            assert found["loss", kind, prefix] == pytest.approx(losses[prefix], rel=1e-4)
            assert found["outcome", kind, prefix] == pytest.approx(ends[prefix], rel=1e-3)
            assert found["completed", kind, prefix] == (kind == "right")
        for step in range(1, 6):
            assert found["gain", kind, step] == pytest.approx(losses[step - 1] - losses[step], rel=1e-3, abs=1e-4)
    # What always ends wrong flags all steps of all chains that do: three of five are wrong.
    assert found["accuracy", "completed", -1] == pytest.approx(0.6)
    assert found["wrong steps flagged", "completed", -1] == found["right steps flagged", "completed", -1] == 1
    assert found["right chains flagged", "completed", -1] == 0


def test_gains_are_told_only_of_a_supervisor_that_reads_the_answer_off(model: Any, stored: StoredCorpus) -> None:
    analysis = InformationGain()
    table = analysis.run(model, analysis.choose(CorpusPairs(stored)))
    found = rows_of(table)
    assert found["gate", "right", 5] == 0
    last = found["loss", "right", 5]
    assert last is not None and last > 0.1 * 5
    assert all(value is None for (measure, of, _), value in found.items() if measure == "gain" or "gain" in of)
    assert found["accuracy", "outcome", -1] is not None
    at = InformationGain(gate=last / 5 * (1 + 1e-9))
    assert rows_of(at.run(model, at.choose(CorpusPairs(stored))))["gain", "wrong", 1] is not None


def test_the_threshold_is_the_best_of_all() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        wrong_step = generator.integers(0, 6, 40)
        scores = np.round(generator.normal(size=(5, 40)), 1)
        is_wrong = np.arange(1, 6)[:, None] >= wrong_step
        scores[is_wrong] -= 0.7
        chains = np.flatnonzero(wrong_step)
        halves = [(scores[:, part], is_wrong[:, part]) for part in (chains[::2], chains[1::2])]

        def accuracy(threshold: float, half: Any) -> float:
            return float(((half[0] <= threshold) == half[1]).mean())

        found = judged(scores, wrong_step)
        every = [-10.0, *np.unique(scores)]
        assert accuracy(found["threshold"], halves[0]) == max(accuracy(each, halves[0]) for each in every)
        assert found["accuracy"] == pytest.approx(accuracy(found["threshold"], halves[1]))
        flagged = halves[1][0] <= found["threshold"]
        assert found["wrong steps flagged"] == pytest.approx(flagged[halves[1][1]].mean())
        assert found["right chains flagged"] == pytest.approx((scores[:, wrong_step == 0] <= found["threshold"]).mean())


def test_a_planted_fault_is_found_by_what_is_gained() -> None:
    wrong_step = np.array([3, 3, 3, 3, 0])
    gain = np.where(np.arange(1, 6)[:, None] < np.where(wrong_step, wrong_step, 9), 1.0, 0.0)
    found = judged(gain, wrong_step)
    assert (found["accuracy"], found["right steps flagged"], found["right chains flagged"]) == (1, 0, 0)
    alike = judged(np.zeros((5, 5)), wrong_step)
    assert alike["accuracy"] == 0.6 and alike["right steps flagged"] == 1


SAID = {"num_entities": 30, "num_relations": 6, "out_degree": 4, "ratio": 2, "ood_fraction": 0.2, "bridge": "said"}


@pytest.mark.parametrize("spread", [0.02, 3.0])  # bridges that are all as likely, and few that are likely at all
def test_said_bridges_gain_what_they_tell_beyond_all_bridges_together(spread: float) -> None:
    stored = build(Composition(**SAID))
    torch.manual_seed(0)
    model: Any = Gpt2(n_layer=1, n_embd=16, n_head=2, n_positions=8, initializer_range=spread).build(len(stored.tokens))
    analysis = InformationGain(split="ood", pairs=12, gate=1e9)
    pairs = analysis.choose(CorpusPairs(stored))
    assert len(pairs) == 12
    found = rows_of(analysis.run(model.eval(), pairs))
    facts = {
        tuple(prompt): answer
        for block in stored.blocks("ood")
        for prompt, answer in zip(block.prompts.tolist(), block.answers.tolist())
    }
    losses: dict[str, list[float]] = {"before": [], "right": [], "wrong": []}
    with torch.no_grad():
        for row, prompt in enumerate(pairs.clean.tolist()):
            bridge, *rest = facts[tuple(prompt)]
            wrong = int(pairs.notes["wrong"][row])
            assert int(pairs.notes["bridge"][row]) == bridge != wrong and pairs.answers[row].tolist() == rest
            whole = torch.tensor([[*prompt, one, *rest] for one in range(len(stored.tokens))])
            log_p = model(whole).logits.double().log_softmax(-1)[:, 2:-1].gather(-1, whole[:, 3:, None])[..., 0]
            losses["before"].append(-float(log_p.sum(1).logsumexp(0)))
            for name, one in (("right", bridge), ("wrong", wrong)):
                losses[name].append(-float(log_p[one, 1:].sum()))
    before = np.mean(losses["before"])
    for name in ("right", "wrong"):
        assert found["loss", name, 0] == pytest.approx(before, rel=1e-4, abs=1e-3)
        assert found["loss", name, 1] == pytest.approx(np.mean(losses[name]), rel=1e-4)
        assert found["gain", name, 1] == pytest.approx(before - np.mean(losses[name]), rel=1e-3, abs=1e-4)
    assert ("accuracy", "gain", -1) in found and not any("completed" in key or "outcome" in key for key in found)


def test_what_has_no_steps_is_refused() -> None:
    with pytest.raises(ParameterError, match="corpus: has no chains of steps"):
        InformationGain().choose(CorpusPairs(build(Composition.tiny())))
    with pytest.raises(MismatchError, match="looks at chains of steps, and the prompts are none"):
        InformationGain().run(random_model("gpt2"), random_pairs())


def test_chains_are_a_sample_of_the_split(stored: StoredCorpus) -> None:
    pairs = CorpusPairs(stored).chains("id", 10, 0, 4)
    assert isinstance(pairs, Pairs) and len(pairs) == 60
    again = CorpusPairs(stored).chains("id", 10, 1, 4)
    assert not np.array_equal(pairs.clean, again.clean)
    with pytest.raises(ParameterError, match="split"):
        InformationGain(split="ood").check_split(stored.sizes)
