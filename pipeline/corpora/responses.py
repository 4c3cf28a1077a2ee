"""Prompts with responses, some of which are likely at first (Yan et al. 2024, arXiv 2406.07327, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, columns
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

# Of 50 (R - 2) rows of a prompt with R responses, so many times R - 2 are the one that is preferred, and the other: a
# likely response has probability 0.4, an unlikely one 0.02. The four scenarios of the paper.
SCENARIOS = {1: (20, 20), 2: (1, 20), 3: (20, 1), 4: (1, 1)}


@dataclass(frozen=True)
class Responses(Corpus):
    """Prompts of one token, each with a preferred response, a rejected one and others, which share what is left.

    `rows: policy` trains each response as often as its probability says, in all four scenarios, whose prompts differ:
    both likely (1), the preferred one unlikely (2), the rejected one unlikely (3), both (4). `rows: pairs` has the
    prompts of one scenario with their preferred responses; the objective `preference` takes the rejected ones with
    `rejected: corpus`. `id` has prompts that are never trained.
    """

    rows: Literal["policy", "pairs"] = param("policy", "responses by their probability, or one pair for each prompt")
    scenario: int = param(1, "of pairs", ge=1, le=4)
    prompts: int = param(4, "of each scenario", ge=1)
    responses: int = param(10, "to every prompt", ge=3)
    seed: int = param(0, "of which are preferred and rejected", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"responses": 4}
    separator: ClassVar[str] = " "
    held_out: ClassVar[tuple[str, ...]] = ("id",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scenario != 1 and self.rows == "policy":
            raise ParameterError("scenario", "is of rows: pairs; rows: policy has all four")
        if 200 * self.prompts * self.responses > 10_000_000:
            raise ParameterError("prompts", f"{self.prompts} times {self.responses} responses are more than 50,000")

    def vocabulary(self) -> list[str]:
        prompts = [f"<p{number}>" for number in range(5 * self.prompts)]
        return [*prompts, *(f"<r{number}>" for number in range(self.responses))]

    def _pairs(self) -> Numbers:
        """The preferred and the rejected response of every prompt, (5 prompts, 2)."""
        order = Draws(self.seed, "responses").uniform(5 * self.prompts, self.responses).argsort(1)
        return order[:, :2]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        first = 5 * self.prompts - self.prompts
        held_out = np.arange(first, first + self.prompts)
        if self.rows == "pairs":
            train = self._preferred(np.arange(self.prompts) + (self.scenario - 1) * self.prompts)
        else:
            train = self._policy()
        return {"train": [train], "id": [self._preferred(held_out)]}

    def _preferred(self, prompts: Numbers) -> Examples:
        return Examples(columns(prompts), columns(self._pairs()[prompts, 0] + 5 * self.prompts), "pair")

    def _policy(self) -> Examples:
        others = self.responses - 2
        counts = np.empty((4, self.prompts, self.responses), np.int64)
        pairs = self._pairs()[: 4 * self.prompts].reshape(4, self.prompts, 2)
        for number, (preferred, rejected) in enumerate(SCENARIOS.values()):
            counts[number] = 50 - preferred - rejected
            np.put_along_axis(counts[number], pairs[number, :, :1], preferred * others, 1)
            np.put_along_axis(counts[number], pairs[number, :, 1:], rejected * others, 1)
        place = np.repeat(np.arange(counts.size), counts.ravel())
        prompts, responses = np.divmod(place, self.responses)
        return Examples(columns(prompts), columns(responses + 5 * self.prompts), "response")

    def rejected(self, examples: Examples) -> Ids:
        return columns(self._pairs()[examples.prompts[:, 0], 1] + 5 * self.prompts)
