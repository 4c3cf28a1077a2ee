"""Questions of reasoning-gym by level of difficulty, or those of a user's own file.

Stojanovski et al. 2025, "Reasoning Gym" (arXiv 2505.24760): a hundred generators of questions whose answers are known,
each with levels. Its package, which the extra `gym` installs, is asked for the questions.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora._triple_files import MOST_BYTES, TripleFile
from pipeline.corpora.base import Corpus, Examples
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.paths import expanded
from pipeline.utils.suggest import did_you_mean
from pipeline.utils.table_files import read_rows

LINE, ANSWER, END = "<n>", "<answer>", "<eos>"
COLUMNS = ("question", "answer")
MOST_TOKENS = 4096  # of a question with its answer

Item = tuple[tuple[str, ...], tuple[str, ...]]  # a question and its answer, in tokens


@dataclass(frozen=True)
class ReasoningGym(Corpus):
    """Questions of a dataset of reasoning-gym, or of a file, and their answers; harder levels are held out.

    Text is split into words, and these into letters that belong together and single other characters, of which those
    within a word begin with `##`: `12 + 7` is `1 ##2 + 7`. Splits: `train` and `id`, with questions of all levels up to
    `trained_level`; `level_N`, questions of each harder level.
    """

    dataset: str = param("chain_sum", "of reasoning-gym, one that has levels")
    path: str = param("", "a .jsonl, .json, .csv or .tsv file of question, answer and level in the place of a dataset")
    trained_level: int = param(1, "the hardest that is trained, from 0 on", ge=0)
    harder_levels: int = param(2, "that are held out, each a split", ge=1)
    train_rows: int = param(10_000, "most questions that are trained; equal ones count once", ge=1)
    test_rows: int = param(500, "most of each held-out split", ge=1)
    seed: int = param(0, "of the questions", ge=0)

    separator: ClassVar[str] = " "
    citation: ClassVar[str] = "Stojanovski et al. 2025, arXiv 2505.24760"

    @classmethod
    def tiny(cls, folder: Path = Path()) -> ReasoningGym:
        path = folder / "questions.csv"
        sums = [(a, b, level) for level in range(3) for a in range(3 + level) for b in range(3 + level)]
        rows = [f"level {level}: {a} + {b} =?,{a + b},{level}" for a, b, level in sums]
        path.write_text("\n".join(["question,answer,level", *rows]), encoding="utf-8")
        return cls(path=str(path), harder_levels=1)

    @property
    def held_out(self) -> tuple[str, ...]:
        return ("id", *(f"level_{level}" for level in self._harder))

    @property
    def _harder(self) -> range:
        return range(self.trained_level + 1, self.trained_level + 1 + self.harder_levels)

    @property
    def _file(self) -> TripleFile:
        return TripleFile(expanded(self.path, "path"), "path")

    def check_here(self) -> None:
        if self.path:
            _ = self._of_file  # so that a mistake in it is one of the recipe
        else:
            _ = self._levels

    def fingerprint(self) -> str:
        if self.path:
            return hashlib.sha256(self._file.content()).hexdigest()
        self.check_here()
        return f"reasoning-gym {importlib.metadata.version('reasoning-gym')}"

    @functools.cached_property
    def _levels(self) -> Any:
        """The curriculum of the dataset, which says what its levels are.

        Raises:
            ParameterError: when the package, the dataset or one of the levels is not there.
        """
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ParameterError(
                "dataset", "needs the package reasoning-gym; pip install 'groklab[gym]', or give a path"
            )
        from reasoning_gym import factory

        if self.dataset not in factory.CURRICULA:
            hint = did_you_mean(self.dataset, sorted(factory.CURRICULA))
            raise ParameterError("dataset", f"reasoning-gym has no levels of a dataset {self.dataset!r}{hint}")
        found = factory.create_curriculum(self.dataset)
        most = max(len(attribute.levels) for attribute in found.attributes.values()) - 1
        if self._harder[-1] > most:
            raise ParameterError(
                "harder_levels", f"asks for level {self._harder[-1]}; {self.dataset} has levels 0 to {most}"
            )
        return found

    def _of_gym(self, level: int, is_range: bool, count: int) -> Iterator[tuple[str, str]]:
        """Questions of a level, or of it and all easier ones."""
        import reasoning_gym
        from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext, RangeAttributeMode

        levels = self._levels
        levels.set_global_level(level)
        mode = RangeAttributeMode.INCLUSIVE if is_range else RangeAttributeMode.UPPER_BOUND
        seed = int(Draws(self.seed, f"reasoning gym {level} {is_range}").below(2**31, 1)[0])
        try:
            config = levels.generate_configuration({"seed": seed, "size": count}, DefaultCurriculumContext(mode=mode))
            for item in reasoning_gym.create_dataset(self.dataset, **vars(config)):
                if not isinstance(item["answer"], str):
                    raise ParameterError(
                        "dataset", f"{self.dataset} has questions without one answer, which are not read"
                    )
                yield item["question"], item["answer"]
        except (AssertionError, ValueError) as error:
            if isinstance(error, ParameterError):
                raise
            raise ParameterError("dataset", f"{self.dataset} cannot be asked at level {level}: {error}") from None

    @functools.cached_property
    def _of_file(self) -> list[tuple[int, str, str]]:
        """Level, question and answer of each row of the file."""
        file = self._file
        if file.path.suffix.lower() not in (".csv", ".tsv", ".json", ".jsonl"):
            raise file.error("", "is of no kind that is known; allowed: .csv, .tsv, .json, .jsonl")
        found = []
        try:
            for where, row in read_rows(file.path, COLUMNS, file.content(), MOST_BYTES):
                place = where.removeprefix(f"{file.path}, ")
                for name in COLUMNS:
                    if not isinstance(row.get(name), str) or not row[name].strip():
                        raise file.error(place, f"{name} is no text or empty")
                level = str(row.get("level") or 0)
                if not re.fullmatch(r"\d{1,4}", level, re.ASCII):
                    raise file.error(place, f"level is {level!r:.40}; allowed: a whole number from 0 on")
                found.append((int(level), row["question"], row["answer"]))
        except RecipeError as error:
            raise ParameterError("path", str(error)) from None
        return found

    def _texts(self, level: int, is_range: bool, count: int) -> Iterable[tuple[str, str]]:
        if not self.path:
            return self._of_gym(level, is_range, count)
        chosen = [item[1:] for item in self._of_file if item[0] == level or (is_range and item[0] < level)]
        order = Draws(self.seed, f"questions {level}").permutation(len(chosen))
        return (chosen[row] for row in order)

    @functools.cached_property
    def _items(self) -> dict[str, list[Item]]:
        """The questions of each split, in tokens."""
        wanted = self.train_rows + self.test_rows
        known = self._different(self._texts(self.trained_level, True, wanted), wanted)
        tested = min(self.test_rows, len(known) // 5)
        if not tested:
            raise ParameterError(
                "path" if self.path else "dataset",
                f"has {len(known)} questions up to level {self.trained_level}, too few to hold out some",
            )
        order = Draws(self.seed, "questions held out").permutation(len(known))  # what comes first is what comes often
        known = [known[row] for row in order]
        found = {"train": known[tested:], "id": known[:tested]}
        trained = {question for question, _ in found["train"]}
        for level in self._harder:
            texts = self._texts(level, False, self.test_rows)
            items = [item for item in self._different(texts, self.test_rows) if item[0] not in trained]
            if not items:
                raise ParameterError("harder_levels", f"there is no question of level {level} that is not trained")
            found[f"level_{level}"] = items
        return found

    def _different(self, texts: Iterable[tuple[str, str]], most: int) -> list[Item]:
        """At most so many questions, each once, with the answer that comes first."""
        found: dict[tuple[str, ...], tuple[str, ...]] = {}
        for question, answer in texts:
            prompt, said = (*pieces(question), ANSWER), (*pieces(answer), END)
            if len(prompt) + len(said) > MOST_TOKENS:
                raise ParameterError(
                    "path" if self.path else "dataset",
                    f"has a question of more than {MOST_TOKENS:,} tokens, the most: {question[:40]!a} ...",
                )
            found.setdefault(prompt, said)
            if len(found) == most:
                break
        return list(found.items())

    def vocabulary(self) -> list[str]:
        parts = itertools.chain.from_iterable(part for items in self._items.values() for item in items for part in item)
        return [*sorted(set(parts) - {LINE, ANSWER, END}), LINE, ANSWER, END]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        number = {token: place for place, token in enumerate(self.vocabulary())}
        kind = "question" if self.path else self.dataset
        found: dict[str, list[Examples]] = {}
        for split, items in self._items.items():
            by_shape: dict[tuple[int, int], list[Item]] = {}
            for item in items:
                by_shape.setdefault((len(item[0]), len(item[1])), []).append(item)
            for some in by_shape.values():
                prompts, answers = (
                    np.array([[number[t] for t in part] for part in side], np.int32) for side in zip(*some)
                )
                found.setdefault(split, []).append(Examples(prompts, answers, kind))
        return found


def pieces(text: str) -> list[str]:
    """The tokens of a text: letters that belong together, and single other characters; `##` goes on with a word."""
    found: list[str] = []
    for place, line in enumerate(text.strip().splitlines()):
        found += [LINE] if place else []
        for word in line.split():
            first, *more = re.findall(r"[^\W\d_]+|.", word)
            found += [first, *(f"##{part}" for part in more)]
    return found
