"""bAbI: every answer worked out again from the sentences, from all or from the facts that support it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora.__main__ import main
from pipeline.corpora.babi import OOD, TASKS, WORDS, Babi
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.babi_solver import solve
from tests.corpora.facts import facts

TWO, ONE, THREE = {2, 6, 12, 13, 15}, {1, 4, 5, 6}, {3, 16}
# How many facts support an answer, where the paper's task says so.
FACTS = {1: {1}, 2: {2}, 3: {3}, 4: {1}, 5: {1}, 6: {1}, 10: {1}, 11: {2}, 12: {1}, 13: {2}, 14: {2}, 15: {2},
         16: {3}, 17: {1, 2}, 18: {2}, 19: {2}, 20: {1}}  # fmt: skip


def text(words: tuple[str, ...]) -> str:
    return " ".join(words[:-1])


@pytest.mark.parametrize("task", TASKS)
def test_answers_follow_from_the_story_and_from_the_facts_that_support_them(task: int) -> None:
    corpus = Babi(tasks=(task,), questions=60, test_questions=30)
    for split, by_task in corpus.stories.items():
        counts = Counter[int]()
        stories = by_task[task]
        assert sum(len(story.questions) for story in stories) == (60 if split == "train" else 30)
        for story in stories[:4] if task == 17 else stories:
            told = [text(words) for words in story.statements]
            for question in story.questions[:2] if task == 17 else story.questions:
                before, asked, answer = told[: question.statements], text(question.words), " ".join(question.answer)
                assert solve(task, before, asked) == {answer}, (before, asked)
                support = [told[fact] for fact in question.support]
                assert solve(task, support, asked) == {answer}, (support, asked)
                assert max(question.support) < question.statements
                counts[len(question.support)] += 1
        if task in FACTS:
            longer = {3} if split == "ood_path" else FACTS[task]
            assert set(counts) <= longer, split


def test_every_task_has_several_answers_and_yes_as_often_as_no() -> None:
    corpus = Babi(tasks=tuple(TASKS), questions=300, test_questions=20)
    for task, stories in corpus.stories["train"].items():
        answers = Counter(question.answer for story in stories for question in story.questions)
        assert len(answers) >= 2 and max(answers.values()) <= 0.65 * sum(answers.values()), (task, answers)
        if task in (6, 9, 17, 18):
            assert set(answers) == {("yes",), ("no",)} and abs(answers["yes",] - 150) < 40


def test_splits_share_no_story_and_differ_as_they_say() -> None:
    corpus = Babi(tasks=tuple(TASKS), questions=100, test_questions=30)
    stored = build(corpus)
    assert stored.sizes == {
        "train": 2000, "id": 600, "ood_length": 12 * 30, "ood_names": 16 * 30, "ood_path": 60,
        **{f"task_{task}": 30 for task in TASKS},
    }  # fmt: skip
    stories = {
        split: {(task, tuple(story.statements)) for task, some in by_task.items() for story in some}
        for split, by_task in corpus.stories.items()
    }
    for split, some in stories.items():
        for other, others in stories.items():
            assert split == other or not some & others
    people = {word for word in WORDS.split() if word[0].isupper()}
    names = {
        split: {word for _, lines in some for line in lines for word in line if word in people}
        for split, some in stories.items()
    }
    plain = {"Then", "After", "Afterwards", "Following", "Yesterday", "This", "The", "Mice", "Cats", "Wolves", "Sheep"}
    assert names["ood_names"] & names["train"] <= plain
    lengths = {
        split: {task: [q.statements for s in some for q in s.questions] for task, some in by_task.items()}
        for split, by_task in corpus.stories.items()
    }
    for task in OOD["ood_length"][1]:
        assert sum(lengths["ood_length"][task]) > 1.2 * sum(lengths["id"][task])
    for task in (1, 6, 9, 10, 11, 12, 13):
        assert min(lengths["ood_length"][task]) > max(lengths["train"][task])
    assert {len(question.answer) for story in corpus.stories["ood_path"][19] for question in story.questions} == {3}


def test_facts_are_written_before_the_answer_where_that_is_wanted() -> None:
    plain, chain = (
        build(Babi(tasks=(2,), questions=40, test_questions=10, answer=kind)) for kind in ("plain", "facts")
    )
    answers = {fact.prompt: fact.answer for fact in facts(plain, "train")}
    for fact in facts(chain, "train"):
        assert fact.answer[-2:] == answers[fact.prompt]
        sentences = " ".join(fact.answer[:-2]).split(" .")[:-1]
        assert len(sentences) == 2 and all(sentence in " ".join(fact.prompt) for sentence in sentences)


OFFICIAL = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary?\tbathroom\t1
4 Daniel went back to the hallway.
5 Where is Daniel?\thallway\t4
1 Mary got the milk there.
2 Mary took the football.
3 What is Mary carrying?\tmilk,football\t1 2
"""


def write(folder: Path, train: str | bytes = OFFICIAL, test: str = OFFICIAL.replace("Mary", "Jeff")) -> Babi:
    folder.mkdir(exist_ok=True)
    (folder / "qa8_lists-sets_train.txt").write_bytes(train if isinstance(train, bytes) else train.encode())
    (folder / "qa8_lists-sets_test.txt").write_text(test)
    return Babi(tasks=(8,), path=str(folder))


def test_the_authors_files_are_read_and_their_shared_questions_left_out(tmp_path: Path) -> None:
    stored = build(write(tmp_path))
    found = {" ".join(fact.prompt): fact.answer for fact in facts(stored, "train")}
    assert found == {
        "Mary moved to the bathroom . John went to the hallway . Where is Mary ?": ("bathroom", "</a>"),
        "Mary moved to the bathroom . John went to the hallway . Daniel went back to the hallway . Where is Daniel ?": (
            "hallway", "</a>",
        ),
        "Mary got the milk there . Mary took the football . What is Mary carrying ?": ("milk", "football", "</a>"),
    }  # fmt: skip
    corpus = write(tmp_path, test=OFFICIAL.partition("\n1 ")[0] + "\n1 Jeff sat.\n2 Where is Jeff?\tgarden\t1\n")
    assert [" ".join(fact.prompt) for fact in facts(build(corpus), "id")] == ["Jeff sat . Where is Jeff ?"]
    assert corpus.stories["train"][8][1].questions[0].support == (0, 1)
    with pytest.raises(ParameterError, match="every test question of task 8 is trained"):
        build(write(tmp_path, test=OFFICIAL))


@pytest.mark.parametrize("task", TASKS)
def test_what_is_written_reads_back(task: int, tmp_path: Path) -> None:
    corpus = Babi(tasks=(task,), questions=30, test_questions=10)
    words = [
        f"--tasks=[{task}]",
        "--questions=30",
        "--test_questions=10",
        "--export",
        str(tmp_path),
        "--format",
        "babi",
    ]
    assert main(["babi", *words]) == 0
    again = Babi(tasks=(task,), path=str(tmp_path))
    for split, part in {"train": "train", "id": "test"}.items():
        lines = (tmp_path / f"qa{task}_babi_{part}.txt").read_text().splitlines()
        assert sum("\t" in line for line in lines) == (30 if split == "train" else 10)
        for story, read in zip(corpus.stories[split][task], again.stories[split][task], strict=True):
            last = story.questions[-1].statements
            assert read.questions == story.questions and read.statements[:last] == story.statements[:last]
    if task in OOD["ood_length"][1]:
        assert (tmp_path / f"qa{task}_babi_ood_length.txt").is_file()


def test_other_corpora_have_no_stories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["group", "--group", "Z5", "--export", str(tmp_path / "new"), "--format", "babi"]) == 2
    assert capsys.readouterr().err == "command line: format: babi: group has no stories; use parquet\n"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("", "holds no question"),
        ("1 Mary went.\n", "holds no question"),
        ("x\n", "line 1: is not a number and a sentence"),
        ("2 Mary went.\n", "line 1: has the number 2; allowed: 1"),
        ("1 Mary went.\n3 Mary went.\n", "line 2: has the number 3; allowed: 2, or 1 for a new story"),
        ("1 Mary went.\n2 Where?\tgarden\t7\n", "line 2: has no answer, no statement before it, or facts"),
        ("1 Mary went.\n2 Where?\t\t1\n", "line 2: has no answer"),
        ("1 Mary\0 went.\n", "line 1: is not a number and a sentence"),
        (b"1 Mary went.\n2 \xff\n", "line 2: is not UTF-8"),
        ("1 <pad> went.\n2 Where?\tgarden\t1\n", "a story has a word <pad>"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(train: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as error:
        build(write(tmp_path, train))
    assert error.value.key == "path" and message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"tasks": ()}, "tasks"),
        ({"tasks": (21,)}, "tasks"),
        ({"tasks": (1, 1)}, "tasks"),
        ({"tasks": (4,), "test_questions": 100_000}, "test_questions"),
        ({"path": "nowhere"}, "path"),
    ],
)
def test_impossible_parameters_are_named(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(ParameterError) as error:
        build(Babi(**parameters))
    assert error.value.key == key and "\n" not in str(error.value)
