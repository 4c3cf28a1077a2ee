"""bAbI's own file format: numbered statements, and questions with a tab, the answer, a tab, and what supports it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.corpora._babi_stories import Question, Story
from pipeline.utils.errors import ParameterError

MOST_BYTES = 64 << 20
LINE = re.compile(r"(\d{1,6}) ([^\t]+?)\s*(?:\t([^\t]*)\t([\d ]*))?", re.ASCII)


def as_sentence(words: Iterable[str]) -> str:
    """Words as text, the signs without a space before them."""
    return re.sub(r" ([.?])", r"\1", " ".join(words))


def story_lines(story: Story) -> list[str]:
    """The lines of a story, without line ends; numbers begin at 1 and count questions too."""
    lines: list[str] = []
    number_of: list[int] = []  # of each statement
    asked = 0
    for place in range(len(story.statements) + 1):
        while asked < len(story.questions) and story.questions[asked].statements == place:
            question = story.questions[asked]
            support = " ".join(str(number_of[statement]) for statement in question.support)
            text = as_sentence(question.words)
            lines.append(f"{len(lines) + 1} {text}\t{','.join(question.answer)}\t{support}")
            asked += 1
        if place < len(story.statements):
            lines.append(f"{len(lines) + 1} {as_sentence(story.statements[place])}")
            number_of.append(len(lines))
    return lines


def read_stories(path: Path, key: str) -> list[Story]:
    """The stories of a file.

    Raises:
        ParameterError: for the parameter `key`, when it cannot be read or a line is not of the format.
    """

    def error(number: int, message: str) -> ParameterError:
        return ParameterError(key, f"{path}{f', line {number}' if number else ''}: {message}")

    try:
        if not path.is_file():
            raise error(0, "is no file")
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as problem:
        raise error(0, f"cannot be read: {problem.strerror}") from None
    if len(content) > MOST_BYTES:
        raise error(0, f"has more than {MOST_BYTES >> 20} MB, which is the most")
    stories: list[Story] = []
    places: dict[int, int] = {}  # the number of a line -> that of its statement
    last = 0
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            text = raw.decode("utf-8-sig").strip("\r ")
        except UnicodeDecodeError:
            raise error(number, "is not UTF-8") from None
        if not text:
            continue
        match = LINE.fullmatch(text)
        if not match or not text.replace("\t", " ").isprintable():
            raise error(number, "is not a number and a sentence, or a question, its answer and its facts after tabs")
        if int(match[1]) == 1:
            stories.append(Story())
            places = {}
        elif not stories or int(match[1]) != last + 1:
            raise error(number, f"has the number {match[1]}; allowed: {last + 1}, or 1 for a new story")
        last = int(match[1])
        words = re.sub(r"([.?])$", r" \1", match[2].strip()).split()
        if match[3] is None:
            places[last] = len(stories[-1].statements)
            stories[-1].statements.append(tuple(words))
            continue
        answer = tuple(match[3].strip().replace(",", " ").split())
        facts = [int(fact) for fact in match[4].split()]
        if not answer or not places or not set(facts) <= places.keys():
            raise error(number, "has no answer, no statement before it, or facts that are no statements of its story")
        support = tuple(sorted({places[fact] for fact in facts}))
        stories[-1].questions.append(Question(tuple(words), answer, support, len(stories[-1].statements)))
    if not any(story.questions for story in stories):
        raise error(0, "holds no question")
    return stories
