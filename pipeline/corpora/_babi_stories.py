"""What the stories of bAbI are made of: statements, questions with the facts that support them, and random choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from pipeline.utils.draws import Draws

T = TypeVar("T")


class Question(NamedTuple):
    """A question about the statements before it, and the numbers of those that its answer follows from."""

    words: tuple[str, ...]
    answer: tuple[str, ...]
    support: tuple[int, ...]
    statements: int  # how many stand before it


@dataclass
class Story:
    """Statements and questions, in words; `.` and `?` are words too."""

    statements: list[tuple[str, ...]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    def say(self, text: str) -> int:
        """Add a statement, and return its number."""
        self.statements.append((*text.split(), "."))
        return len(self.statements) - 1

    def ask(self, text: str, answer: str, *support: int) -> None:
        """Add a question. The words of an answer that names several things are separated by spaces."""
        statements = len(self.statements)
        self.questions.append(
            Question((*text.split(), "?"), tuple(answer.split()), tuple(sorted(set(support))), statements)
        )

    def context(self, question: Question) -> tuple[str, ...]:
        """The words of all statements before a question."""
        return tuple(word for statement in self.statements[: question.statements] for word in statement)

    def prompts(self) -> list[tuple[str, ...]]:
        return [(*self.context(question), *question.words) for question in self.questions]


class Dice:
    """Random choices for simulations, a few bits at a time out of a stream that never changes."""

    def __init__(self, draws: Draws):
        self._draws, self._drawn, self._next = draws, draws.uniform(0), 0

    def below(self, bound: int) -> int:
        if self._next == len(self._drawn):
            self._drawn, self._next = self._draws.uniform(4096), 0
        self._next += 1
        return int(self._drawn[self._next - 1] * bound)

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        found = list(options)
        for place in range(len(found) - 1, 0, -1):
            other = self.below(place + 1)
            found[place], found[other] = found[other], found[place]
        return found

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """So many different ones, in random order."""
        return self.shuffled(options)[:count]


@dataclass(frozen=True)
class Setting:
    """What a story is to be like: how many times as long, whose names it uses, and how long its paths are."""

    length: int = 1
    held_out_names: bool = False
    longer_paths: bool = False


ROOMS = ("bedroom", "kitchen", "garden", "hallway", "bathroom", "office")
PRONOUNS = {"John": "he", "Daniel": "he", "Mary": "she", "Sandra": "she", "Bill": "he", "Fred": "he", "Julie": "she",
            "Alice": "she"}  # fmt: skip


def people(setting: Setting) -> tuple[str, ...]:
    """The four persons of a story in the house."""
    names = tuple(PRONOUNS)
    return names[4:] if setting.held_out_names else names[:4]
