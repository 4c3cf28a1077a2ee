"""Sentences of the grammars of McCoy et al. 2020, which question_formation and tense_reinflection share.

McCoy et al. 2020, "Does syntax need to grow on trees?" (arXiv 2001.03632), appendix.

A template is a binary tree whose leaves are kinds of words: `Det`, `N:s` (a noun of the number s), `Aux:s`, `Vi:s` and
`Vt:s` (verbs without and with an object), `Prep`, `Rel`. Numbers s (the subject's), m (its modifier's), o and p (those
of the object) are drawn, singular or plural.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, Span, prompt_keys
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

Tree = Any  # a leaf, or a pair of trees
START, END, STOP = "<s>", "<eos>", "."
WORDS = {
    "Det": ("the", "some", "my", "your", "our", "her"),
    "Prep": ("around", "near", "with", "upon", "by", "behind", "above", "below"),
    "Rel": ("who", "that"),
}
NOUNS = (
    "newt", "orangutan", "peacock", "quail", "raven", "salamander", "tyrannosaurus", "unicorn", "vulture", "walrus",
    "xylophone", "yak", "zebra",
)  # fmt: skip
VERBS = {
    "Vi": ("giggle", "smile", "sleep", "swim", "wait", "move", "change", "read", "eat"),
    "Vt": ("entertain", "amuse", "high_five", "applaud", "confuse", "admire", "accept", "remember", "comfort"),
}
NUMBERS = "smop"
MOST = 1 << 16  # sentences at once


class Template(NamedTuple):
    """A sentence without words: its tree, how often it is drawn, its subject's form and length, its object's form."""

    tree: Tree
    weight: float
    subject: str
    main: int
    object: str

    @property
    def leaves(self) -> list[str]:
        return leaves(self.tree)


def leaves(tree: Tree) -> list[str]:
    return [tree] if isinstance(tree, str) else [leaf for part in tree for leaf in leaves(part)]


def spans(tree: Tree, first: int = 0) -> list[Span]:
    """First and last word of each part of a tree that has several words, the whole first."""
    if isinstance(tree, str):
        return []
    left, right = tree
    middle = first + len(leaves(left))
    return [(first, first + len(leaves(tree)) - 1), *spans(left, first), *spans(right, middle)]


def plural(noun: str) -> str:
    return noun + ("es" if noun.endswith("s") else "s")


def past(verb: str) -> str:
    irregular = {"sleep": "slept", "swim": "swam", "eat": "ate", "read": "read"}
    return irregular.get(verb, verb + ("d" if verb.endswith("e") else "ed"))


def templates(auxiliaries: bool) -> list[Template]:
    """All templates of a grammar, whose weights sum to 1; verbs stand bare after auxiliaries, or are inflected."""

    def verb(kind: str, number: str, rest: Tree = None) -> Tree:
        bare = kind if auxiliaries else f"{kind}:{number}"
        whole = bare if rest is None else (bare, rest)
        return (f"Aux:{number}", whole) if auxiliaries else whole

    def phrases(head: str, other: str) -> list[tuple[str, float, Tree]]:
        noun, further = ("Det", f"N:{head}"), ("Det", f"N:{other}")
        return [
            ("plain", 1 / 3, noun),
            ("preposition", 1 / 3, (noun, ("Prep", further))),
            ("clause", 1 / 9, (noun, ("Rel", verb("Vi", head)))),
            ("clause", 1 / 9, (noun, ("Rel", (further, verb("Vt", other))))),
            ("clause", 1 / 9, (noun, ("Rel", verb("Vt", head, further)))),
        ]

    found = []
    for form, weight, subject in phrases("s", "m"):
        main = len(leaves(subject))
        found.append(Template((subject, verb("Vi", "s")), weight / 2, form, main, "none"))
        for other, share, thing in phrases("o", "p"):
            found.append(Template((subject, verb("Vt", "s", thing)), weight * share / 2, form, main, other))
    return found


Taking = Callable[[int, "int | None"], list[Examples]]
Forms = Mapping[str, tuple[Sequence[str], Sequence[str]]]  # kind of word -> those in the singular, in the plural


class Sentences(NamedTuple):
    """Sentences of one template: words (n, T), and which of all candidates each was, (n,)."""

    template: Template
    words: Ids
    numbers: Mapping[str, Numbers]  # 1 for the plural, (n,) each
    order: Numbers


@dataclass(frozen=True)
class ClauseCorpus(Corpus):
    """Sentences and what becomes of them by a task; `gen` has those whose structure alone says what that is."""

    lexicon: int = param(13, "most words of each kind; 13 are all of them", ge=2, le=13)
    longest: int | None = param(None, "most words of a sentence; null: as the grammar has them", ge=7)
    train_rows: int = param(20_000, "rows that are trained; 100,000 in the paper", ge=1)
    id_rows: int = param(1000, "rows held out that are drawn as those of `train` are", ge=1)
    gen_rows: int = param(2000, "rows of `gen`; 10,000 in the paper", ge=1)
    seed: int = param(0, "of the sentences", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"lexicon": 4, "train_rows": 300, "id_rows": 40, "gen_rows": 40}
    separator: ClassVar[str] = " "
    held_out = ("id", "gen")
    auxiliaries: ClassVar[bool]

    @property
    @abc.abstractmethod
    def forms(self) -> Forms:
        """The words of each kind of leaf."""

    @abc.abstractmethod
    def tasks(self, found: Sentences, draws: Draws) -> list[tuple[npt.NDArray[np.bool_], Examples]]:
        """Rows of some sentences, n of each type, and which of them are drawn, (n,)."""

    @abc.abstractmethod
    def hard(self, found: Sentences) -> tuple[npt.NDArray[np.bool_], Examples]:
        """Rows of some sentences for `gen`, n, and which of them are drawn, (n,)."""

    def words(self, kind: str) -> list[str]:
        return list({**WORDS, **VERBS}[kind][: self.lexicon])

    @property
    def common(self) -> dict[str, tuple[list[str], list[str]]]:
        """The words that both grammars have."""
        nouns = list(NOUNS[: self.lexicon])
        fixed = {kind: (self.words(kind), self.words(kind)) for kind in WORDS}
        return {**fixed, "N": (nouns, list(map(plural, nouns)))}

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.vocabulary())}

    @cached_property
    def _tables(self) -> dict[str, Ids]:
        """The words of each kind of leaf, in the singular and in the plural, (2, K)."""
        return {kind: np.stack([self.ids(words) for words in sides]) for kind, sides in self.forms.items()}

    def ids(self, words: Iterable[str]) -> Ids:
        return np.array([self._places[word] for word in words], np.int32)

    def every(self) -> list[Template]:
        """The templates that are not too long."""
        found = templates(self.auxiliaries)
        return [one for one in found if self.longest is None or len(one.leaves) <= self.longest]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        usual = self._different("train", self.train_rows + self.id_rows, self.every())
        hard = self._different("gen", self.gen_rows, [one for one in self.every() if one.subject != "plain"])
        found = {"train": usual(0, self.train_rows), "id": usual(self.train_rows, None), "gen": hard(0, None)}
        return {split: _joined(blocks) for split, blocks in found.items()}

    def _different(self, split: str, count: int, every: Sequence[Template]) -> Taking:
        """So many rows of which no two have the same prompt; a function gives the blocks of those from one to another.

        Raises:
            ParameterError: when rows that are new are hard to find.
        """
        blocks: list[tuple[Examples, Numbers]] = []
        kept = np.empty(0, np.int64)
        for batch in itertools.count():
            before = len(kept)
            for found in self._candidates(f"clauses {split}", batch, min(MOST, 2 * count + 500), every):
                draws = Draws(self.seed, f"clauses {split} tasks {len(blocks)}", batch)
                for taken, rows in [self.hard(found)] if split == "gen" else self.tasks(found, draws):
                    if taken.any():
                        blocks.append((rows.take(taken), found.order[taken]))
            keys = np.concatenate([np.empty(0, np.uint64), *(prompt_keys(rows.prompts) for rows, _ in blocks)])
            order = np.concatenate([np.empty(0, np.int64), *(order for _, order in blocks)])
            by_order = np.argsort(order, kind="stable")
            _, first = np.unique(keys[by_order], return_index=True)
            kept = by_order[np.sort(first)][:count]
            if len(kept) == count:
                break
            if len(kept) - before < max(count // 200, 1):
                key = "gen_rows" if split == "gen" else "train_rows"
                raise ParameterError(key, f"{count:,} different rows are asked for; hardly {len(kept):,} are there")
        starts = np.cumsum([0, *(len(rows) for rows, _ in blocks)])

        def taken_from(first: int, last: int | None) -> list[Examples]:
            chosen = np.sort(kept[first:last])
            edges = np.searchsorted(chosen, starts)
            bounds = zip(blocks, starts, edges, edges[1:])
            return [rows.take(chosen[low:high] - start) for (rows, _), start, low, high in bounds if low < high]

        return taken_from

    def _candidates(self, purpose: str, batch: int, size: int, every: Sequence[Template]) -> Iterator[Sentences]:
        """A batch of sentences, drawn by the weights of their templates."""
        draws = Draws(self.seed, purpose, batch)
        edges = np.cumsum([template.weight for template in every])
        chosen = np.searchsorted(edges[:-1] / edges[-1], draws.uniform(size), side="right")
        for number, template in enumerate(every):
            order = np.flatnonzero(chosen == number)
            if len(order):
                yield Sentences(template, *self._drawn(template, len(order), draws), order + batch * size)

    def _drawn(self, template: Template, rows: int, draws: Draws) -> tuple[Ids, Mapping[str, Numbers]]:
        """Sentences (rows, T) of a template, and the numbers in them."""
        numbers = dict(zip(NUMBERS, draws.below(2, len(NUMBERS), rows)))
        columns = []
        for leaf in template.leaves:
            kind, _, number = leaf.partition(":")
            table = self._tables[kind]
            which = numbers[number] if number else np.zeros(rows, np.int64)
            columns.append(table[which, draws.below(table.shape[1], rows)])
        return np.stack(columns, 1), numbers

    def row(self, source: Ids, task: str, target: Ids, stop: str = STOP) -> Examples:
        """`<s> source . task` and `target stop <eos>`, for sentences (n, T)."""
        start, dot, name, last, end = self.ids([START, STOP, task, stop, END])

        def joined(*parts: Any) -> Ids:
            columns = [np.broadcast_to(part, (len(source), 1)) if np.ndim(part) == 0 else part for part in parts]
            return np.hstack(columns).astype(np.int32)

        return Examples(joined(start, source, dot, name), joined(target, last, end), task)

    @cached_property
    def _kinds(self) -> dict[int, str]:
        """The kind of leaf that each word is, of sentences as they are given."""
        return {int(i): kind for kind, sides in self.forms.items() for words in sides for i in self.ids(words)}

    @cached_property
    def _trees(self) -> dict[tuple[str, ...], list[Span]]:
        """The parts of a sentence by the kinds of its words."""
        every = templates(self.auxiliaries)
        return {tuple(leaf.partition(":")[0] for leaf in one.leaves): spans(one.tree) for one in every}

    def trees(self, examples: Examples) -> tuple[Ids, list[list[Span]]]:
        """The sentences that rows begin with, (n, 1 + T), after `<s>`, and the parts of each."""
        sentences = examples.prompts[:, :-2]
        return sentences, [self._trees[tuple(self._kinds[word] for word in row[1:])] for row in sentences.tolist()]


def _joined(blocks: Sequence[Examples]) -> list[Examples]:
    """Rows in one block for each form and type."""
    found: dict[tuple[str, int, int], list[Examples]] = {}
    for block in blocks:
        found.setdefault((block.type, block.prompts.shape[1], block.answers.shape[1]), []).append(block)
    whole = []
    for (kind, _, _), parts in sorted(found.items()):
        prompts, answers = (np.concatenate([getattr(part, side) for part in parts]) for side in ("prompts", "answers"))
        whole.append(Examples(prompts, answers, kind))
    return whole
