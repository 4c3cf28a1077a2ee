"""The policy that responses are drawn from has the probabilities of the four scenarios, exactly."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.corpora.responses import Responses
from pipeline.corpora.store import build


@pytest.mark.parametrize(
    ("scenario", "right", "wrong"), [(1, 0.4, 0.4), (2, 0.02, 0.4), (3, 0.4, 0.02), (4, 0.02, 0.02)]
)
@pytest.mark.parametrize("responses", [3, 10])
def test_the_probabilities_of_a_scenario(scenario: int, right: float, wrong: float, responses: int) -> None:
    policy = next(build(Responses(responses=responses, seed=7)).blocks("train"))
    corpus = Responses(rows="pairs", scenario=scenario, responses=responses, seed=7)
    pairs = next(build(corpus).blocks("train"))
    assert len(pairs) == 4
    for prompt, answer, rejected in zip(pairs.prompts[:, 0], pairs.answers[:, 0], corpus.rejected(pairs)[:, 0]):
        counts = Counter(policy.answers[policy.prompts[:, 0] == prompt, 0].tolist())
        total = sum(counts.values())
        others = [counts[kind] / total for kind in counts if kind not in (answer, rejected)]
        assert counts[answer] / total == pytest.approx(right) and counts[rejected] / total == pytest.approx(wrong)
        assert len(others) == responses - 2 and others == pytest.approx(
            [(1 - right - wrong) / (responses - 2)] * len(others)
        )
