"""The twenty prerequisite tasks of bAbI: questions about short stories in a simulated world.

Weston et al. 2015, "Towards AI-Complete Question Answering" (arXiv 1502.05698), section 3. Stories are those of their
tasks, with templates of our own; data in their file format is read too.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.config.fields import param
from pipeline.config.registry import room_name
from pipeline.corpora import _babi_objects as objects
from pipeline.corpora import _babi_places as places
from pipeline.corpora import _babi_relations as relations
from pipeline.corpora._babi_files import MOST_BYTES, read_stories, story_lines
from pipeline.corpora._babi_stories import Dice, Question, Setting, Story
from pipeline.corpora.base import PAD, Corpus, Examples
from pipeline.corpora.store import StoredCorpus
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError
from pipeline.utils.paths import expanded

TASKS: dict[int, Callable[[Dice, Setting], Story]] = {
    1: places.single_fact, 2: objects.two_facts, 3: objects.three_facts, 4: relations.two_arguments,
    5: objects.three_arguments, 6: places.yes_or_no, 7: objects.counting, 8: objects.lists, 9: places.negation,
    10: places.indefinite, 11: places.pronoun, 12: places.conjunction, 13: places.compound_pronoun, 14: places.time,
    15: relations.deduction, 16: relations.induction, 17: relations.position, 18: relations.size, 19: relations.path,
    20: relations.motivation,
}  # fmt: skip
# Held-out split -> what its stories are like, and the tasks that have such stories.
OOD: dict[str, tuple[Setting, frozenset[int]]] = {
    "ood_length": (Setting(length=2), frozenset({1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13})),
    "ood_names": (Setting(held_out_names=True), frozenset(TASKS) - {4, 17, 18, 19}),
    "ood_path": (Setting(longer_paths=True), frozenset({18, 19})),
}
END = "</a>"
WORDS = """
. ? After Afterwards Alice Antoine Bernard Bernhard Bill Brian Cats Daniel Does Emily Following Fred Gertrude Greg Helen
How Irene Is Jason Jessica John Julie Julius Lily Marco Mary Mice Nadia Oscar Paula Peter Sandra Sheep Sumit Teresa The
Then This Victor Walter Wendy What Where Who Why Winona Wolves Yann Yesterday Yvonne a above afraid afternoon and apple
are bathroom bedroom before below bigger blue bored box cat cats chest chocolate color container crate did discarded do
down dropped e east either evening fit fits football frog from garden gave get give go got grabbed gray green hallway
handed he holding hungry in inside is journeyed kitchen last left lion longer many maybe mice milk morning mouse moved n
no none north not nothing objects of office one or pajamas passed picked pink put received rectangle red rhino right s
sheep she south sphere square suitcase swan than that the they thirsty this three tired to took travelled triangle two
up w was went west white will wolf wolves yellow yes yesterday you
"""
TRIES = 20  # stories that are drawn in the place of one that is not new


@dataclass(frozen=True)
class Babi(Corpus):
    """Stories and questions of one or several of bAbI's tasks.

    Splits: `train`; `id`, other stories; `ood_length` (stories of twice the length, later questions), `ood_names`
    (persons that no trained story has) and `ood_path` (chains of three steps in place of two), for the tasks that can
    have them; with several tasks `task_N`, the part of `id` that is of task N. No story stands in two splits, and no
    prompt of a held-out split in `train`. `stories` has the facts that support each answer.
    """

    tasks: tuple[int, ...] = param((1,), "numbers of tasks, 1 to 20")
    questions: int = param(1000, "of each task in `train`", ge=5)
    test_questions: int = param(1000, "of each task in `id`, and in each `ood_...`", ge=5)
    answer: Literal["plain", "facts"] = param(
        "plain", "facts: the facts that support it are written out before the answer"
    )
    path: str | None = param(
        None,
        "a folder of qaN_..._train.txt and qaN_..._test.txt to read; test questions that are trained are left out",
    )
    seed: int = param(0, "of the stories", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"tasks": (1, 15, 19), "questions": 30, "test_questions": 10}
    separator: ClassVar[str] = " "
    citation: ClassVar[str] = "Weston et al. 2015, arXiv 1502.05698"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks or len(set(self.tasks)) < len(self.tasks) or not set(self.tasks) <= TASKS.keys():
            raise ParameterError("tasks", f"{list(self.tasks)} are not one or more different numbers from 1 to 20")

    @property
    def held_out(self) -> tuple[str, ...]:
        return ("id", *OOD, *(f"task_{task}" for task in TASKS))

    def check_here(self) -> None:
        if self.path:
            for part in ("train", "test"):
                for task in self.tasks:
                    self._file(task, part)

    def _file(self, task: int, part: str) -> Path:
        """The file of a task, whose name in between is left to whoever wrote it."""
        folder = expanded(self.path or "", "path")
        found = sorted(folder.glob(f"qa{task}_*{part}.txt"))
        if len(found) != 1:
            raise ParameterError("path", f"{folder} holds {len(found) or 'no'} files qa{task}_*{part}.txt; one is read")
        return found[0]

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        if self.path:
            for task in self.tasks:
                for part in ("train", "test"):
                    with open(self._file(task, part), "rb") as file:
                        digest.update(hashlib.sha256(file.read(MOST_BYTES + 1)).digest())
        return digest.hexdigest() if self.path else ""

    def vocabulary(self) -> list[str]:
        if not self.path:
            return [*WORDS.split(), END]
        used: set[str] = set()
        for stories in (story for by_task in self.stories.values() for story in by_task.values()):
            for story in stories:
                used.update(word for statement in story.statements for word in statement)
                used.update(word for question in story.questions for word in (*question.words, *question.answer))
        if PAD in used or END in used or any(word.startswith("<reserved_") for word in used):
            raise ParameterError("path", f"a story has a word {PAD}, {END} or <reserved_...>, which this pipeline adds")
        return [*sorted(used), END]

    @functools.cached_property
    def stories(self) -> dict[str, dict[int, list[Story]]]:
        """The stories of each split, by task."""
        found: dict[str, dict[int, list[Story]]] = defaultdict(dict)
        for task in self.tasks:
            parts = self._read(task) if self.path else self._simulate(task)
            for split, stories in parts.items():
                found[split][task] = stories
        return {split: found[split] for split in ("train", "id", *OOD) if split in found}

    def _read(self, task: int) -> dict[str, list[Story]]:
        train, test = (read_stories(self._file(task, part), "path") for part in ("train", "test"))
        trained = {prompt for story in train for prompt in story.prompts()}
        for story in test:
            story.questions = [q for q, prompt in zip(story.questions, story.prompts()) if prompt not in trained]
        if not any(story.questions for story in test):
            raise ParameterError("path", f"every test question of task {task} is trained")
        return {"train": train, "id": test}

    def _simulate(self, task: int) -> dict[str, list[Story]]:
        """The held-out splits first, so that a task with few stories has enough of them."""
        stories_seen: set[tuple[tuple[str, ...], ...]] = set()  # those that are held out, by their statements
        prompts_seen: set[tuple[str, ...]] = set()
        kinds = {"id": Setting(), **{split: setting for split, (setting, tasks) in OOD.items() if task in tasks}}
        found = {}
        for split, setting in {**kinds, "train": Setting()}.items():
            dice, wanted = Dice(Draws(self.seed, f"babi {split}", task)), self.test_questions
            if split == "train":
                wanted = self.questions
            stories, count, tries = list[Story](), 0, 0
            while count < wanted:
                story = TASKS[task](dice, setting)
                if split == "ood_length":
                    story.questions = story.questions[len(story.questions) // 2 :]
                if split == "train":  # where a story may come twice, as in the authors' data
                    asked = zip(story.questions, story.prompts())
                    story.questions = [question for question, prompt in asked if prompt not in prompts_seen]
                told = tuple(story.statements)
                if not story.questions or told in stories_seen:
                    tries += 1
                    if tries > TRIES * (len(stories) + 10):
                        raise ParameterError(
                            "test_questions", f"{self.test_questions:,} of task {task} are more than it has; take fewer"
                        )
                    continue
                story.questions = story.questions[: wanted - count]
                count += len(story.questions)
                stories.append(story)
                if split != "train":
                    stories_seen.add(told)
                    prompts_seen.update(story.prompts())
            found[split] = stories
        return found

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        index = {word: number for number, word in enumerate(self.vocabulary())}
        found: dict[str, Iterable[Examples]] = {
            split: list(self._examples(by_task, index)) for split, by_task in self.stories.items()
        }
        if len(self.tasks) > 1:
            parts = self.stories["id"]
            found |= {f"task_{task}": list(self._examples({task: parts[task]}, index)) for task in self.tasks}
        return found

    def _examples(self, by_task: Mapping[int, list[Story]], index: Mapping[str, int]) -> Iterator[Examples]:
        """The questions in blocks of one task and shape."""
        for task, stories in by_task.items():
            rows: dict[tuple[int, int], list[list[int]]] = defaultdict(list)
            for story in stories:
                for question in story.questions:
                    prompt = [index[word] for word in (*story.context(question), *question.words)]
                    answer = [index[word] for word in self._answer(story, question)]
                    rows[len(prompt), len(answer)].append(prompt + answer)
            for prompt_length, answer_length in sorted(rows):
                block = np.array(rows[prompt_length, answer_length], np.int32)
                yield Examples(block[:, :prompt_length], block[:, prompt_length:], f"task_{task}")

    def _answer(self, story: Story, question: Question) -> list[str]:
        facts = [word for fact in question.support for word in story.statements[fact]] * (self.answer == "facts")
        return [*facts, *question.answer, END]


def write_babi(stored: StoredCorpus, folder: Path) -> None:
    """Write `qaN_babi_train.txt`, `..._test.txt` (of `id`) and `..._ood_....txt` in the format of the authors.

    Raises:
        ParameterError: when the corpus is another one.
    """
    corpus = stored.corpus
    if not isinstance(corpus, Babi):
        raise ParameterError("format", f"babi: {room_name(corpus)} has no stories; use parquet")
    folder.mkdir(parents=True, exist_ok=True)
    for split, by_task in corpus.stories.items():
        for task, stories in by_task.items():
            lines = [line for story in stories for line in story_lines(story)]
            name = "test" if split == "id" else split
            (folder / f"qa{task}_babi_{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
