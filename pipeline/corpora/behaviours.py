"""Four behaviours that circuits are known of, in one corpus of sentences.

Those of Tigges et al. 2024, "LLM Circuit Analyses Are Consistent Across Training and Scale" (arXiv 2407.10827):
indirect objects (Wang et al. 2022), greater years (Hanna et al. 2023), pronouns by name, and agreement in number. The
sentences are others, and each word is one token.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, columns
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError
from pipeline.utils.suggest import did_you_mean

WORDS = {
    "women": "Alice Carol Diana Emma Grace Helen Julia Laura Nora Olivia",
    "men": "Adam Brian Colin David Eric Frank George Henry Oscar Peter",
    "places": "beach bakery library market museum park station theatre",
    "objects": "book coin flower hat key letter map pen",
    "events": "voyage siege drought reign strike famine tour trial",
    "roles": "baker dancer doctor farmer pilot player poet singer teacher writer",
    "praises": "brave calm careful clever fine kind patient quick",
    "things": "boat chair cup door lamp plate shoe table tree wheel",
    "many": "boats chairs cups doors lamps plates shoes tables trees wheels",
    "between": "above behind beside near under with",
}
FIXED = "then and went to the , gave a lasted from year so is isn't she he are"
CENTURIES = tuple(str(century) for century in range(11, 19))
FIRST_YEAR, LAST_YEAR = 2, 97  # a year within its century from which others lie before and after


@dataclass(frozen=True)
class Behaviours(Corpus):
    """Sentences of four kinds, whose next word follows from a rule; each kind is a held-out split of its own.

    `ioi`: `then Alice and Adam went to the park , Adam gave a key to` -> `Alice`. `greater_than`: `the siege lasted
    from the year 17 32 to the year 17` -> a later year. `gendered_pronoun`: `so Alice is a kind poet , isn't` -> `she`.
    `agreement`: `the keys near the door` -> `are`. A corrupted sentence differs in one word: the giver is the other
    one; the first year is an earlier one, so that years between may follow; the name is of the other gender; the noun
    is of the other number. Splits: `train`, and one of the name of each task, other sentences.
    """

    tasks: tuple[str, ...] = param(
        ("ioi", "greater_than", "gendered_pronoun", "agreement"), "of these four; each is as frequent in training"
    )
    held_out_rows: int = param(200, "sentences of each task that are held out", ge=2)
    rows: int = param(40_000, "trained sentences in all; of a task no more than there are", ge=8)
    seed: int = param(0, "of the sentences", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"held_out_rows": 20, "rows": 400}
    separator: ClassVar[str] = " "
    citation: ClassVar[str] = "Tigges et al. 2024, arXiv 2407.10827"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("ioi", "greater_than", "gendered_pronoun", "agreement")
        if odd := [task for task in self.tasks if task not in known]:
            raise ParameterError("tasks", f"there is no task {odd[0]!r}{did_you_mean(odd[0], known)}")
        if len(set(self.tasks)) != len(self.tasks) or not self.tasks:
            raise ParameterError("tasks", f"{', '.join(self.tasks) or 'none'}: are not different tasks")

    @property
    def held_out(self) -> tuple[str, ...]:
        return self.tasks

    def vocabulary(self) -> list[str]:
        return [
            *FIXED.split(),
            *(word for words in WORDS.values() for word in words.split()),
            *(f"{y:02}" for y in range(100)),
        ]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary())}

    def _ids(self, *kinds: str) -> Numbers:
        return np.array([self._place[word] for kind in kinds for word in WORDS[kind].split()])

    def _row(self, frame: str, **parts: Any) -> Ids:
        """Sentences from a frame whose words in capitals are columns of tokens, (n, words)."""
        return columns(*(parts[word] if word in parts else self._place[word] for word in frame.split()))

    def _sizes(self, task: str) -> tuple[int, ...]:
        """How many choices there are in each place of a task's sentences."""
        many = {name: len(words.split()) for name, words in WORDS.items()}
        names = many["women"] + many["men"]
        return {
            "ioi": (names, names - 1, 2, many["places"], many["objects"]),
            "greater_than": (many["events"], len(CENTURIES), LAST_YEAR - FIRST_YEAR + 1),
            "gendered_pronoun": (names, many["praises"], many["roles"]),
            "agreement": (2, many["things"], many["between"], 2, many["things"]),
        }[task]

    def _sentences(self, task: str, chosen: Numbers, draws: Draws) -> tuple[Ids, Ids]:
        """Prompts and answers (n, 1) of sentences by their number."""
        at = np.unravel_index(chosen, self._sizes(task))
        names = self._ids("women", "men")
        if task == "ioi":
            first, second = names[at[0]], names[(at[0] + 1 + at[1]) % len(names)]
            giver, other = np.where(at[2] == 0, [first, second], [second, first])
            place, thing = self._ids("places")[at[3]], self._ids("objects")[at[4]]
            frame = "then A and B went to the PLACE , GIVER gave a THING to"
            return self._row(frame, A=first, B=second, PLACE=place, GIVER=giver, THING=thing), columns(other)
        if task == "greater_than":
            event, century = self._ids("events")[at[0]], self._years(np.array(list(map(int, CENTURIES)))[at[1]])
            year = FIRST_YEAR + at[2]
            later = year + 1 + draws.below(99 - year, len(year))
            frame = "the EVENT lasted from the year C Y to the year C"
            return self._row(frame, EVENT=event, C=century, Y=self._years(year)), columns(self._years(later))
        if task == "gendered_pronoun":
            woman = at[0] < len(self._ids("women"))
            frame = "so NAME is a PRAISE ROLE , isn't"
            row = self._row(
                frame, NAME=names[at[0]], PRAISE=self._ids("praises")[at[1]], ROLE=self._ids("roles")[at[2]]
            )
            return row, columns(np.where(woman, self._place["she"], self._place["he"]))
        noun, other = (np.stack([self._ids("things"), self._ids("many")])[at[i], at[i + 1]] for i in (0, 3))
        row = self._row("the NOUN BETWEEN the OTHER", NOUN=noun, BETWEEN=self._ids("between")[at[2]], OTHER=other)
        return row, columns(np.where(at[0] == 0, self._place["is"], self._place["are"]))

    def _years(self, years: Numbers) -> Numbers:
        return self._place["00"] + years

    def contrasted(self, examples: Examples, draws: Draws) -> Examples:
        prompts = examples.prompts.copy()
        if examples.type == "ioi":
            giver = 9
            answers = prompts[:, giver : giver + 1].copy()
            prompts[:, giver] = examples.answers[:, 0]
        elif examples.type == "greater_than":
            first = self._place["00"]
            year = prompts[:, 7] - first
            earlier = draws.below(year, len(year))
            # After the earlier year, and not after the first.
            between = earlier + 1 + draws.below(year - earlier, len(year))
            prompts[:, 7], answers = first + earlier, columns(first + between)
        elif examples.type == "gendered_pronoun":
            women, men = self._ids("women"), self._ids("men")
            is_woman = np.isin(prompts[:, 1], women)
            drawn = draws.below(len(men), len(prompts))
            prompts[:, 1] = np.where(is_woman, men[drawn], women[drawn])
            answers = columns(np.where(is_woman, self._place["he"], self._place["she"]))
        else:
            one, many = self._ids("things"), self._ids("many")
            is_one = np.isin(prompts[:, 1], one)
            prompts[:, 1] += np.where(is_one, 1, -1).astype(np.int32) * (many[0] - one[0]).astype(np.int32)
            answers = columns(np.where(is_one, self._place["are"], self._place["is"]))
        return Examples(prompts, answers, examples.type)

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        train, found = [], {}
        for task in self.tasks:
            every = math.prod(self._sizes(task))
            if self.held_out_rows >= every // 2:
                raise ParameterError("held_out_rows", f"{self.held_out_rows:,} are half of the sentences of {task}")
            trained = min(self.rows // len(self.tasks), every - self.held_out_rows)
            chosen = Draws(self.seed, f"behaviours {task}").choose(every, trained + self.held_out_rows)
            prompts, answers = self._sentences(task, chosen, Draws(self.seed, f"behaviours years {task}"))
            both = Examples(prompts, answers, task)
            train.append(both.take(slice(trained)))
            found[task] = [both.take(slice(trained, None))]
        return {"train": train, **found}
