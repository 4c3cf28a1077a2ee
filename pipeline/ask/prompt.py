"""A prompt put to a run: what it answers at a step, as plain values and as text."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from pipeline.ask.corpus import Known, answer_length, answer_text, facts_used, look_up, parse, standing, text_of
from pipeline.corpora.store import StoredCorpus
from pipeline.data.templates import ENDS, encode_rows, heads, said
from pipeline.data.tokenizer import UnknownWordsError, encode
from pipeline.evaluate.subject import PLAIN, RunSubject
from pipeline.models.families import longest
from pipeline.utils.errors import RecipeError
from pipeline.utils.format import share

BAR = 30  # columns
TEXT_TOKENS = 8  # most tokens of an answer in the words of a base
EIGHTHS = " ▏▎▍▌▋▊▉"


class Prompt:
    """A prompt in the words of a run's corpus, or in those of its base.

    Raises:
        RecipeError: when it has a word that is not known, or is longer than the model's positions.
    """

    def __init__(self, subject: RunSubject, text: str):
        self.subject, self.text = subject, text
        self.stored: StoredCorpus = subject.run.folder.stored
        self.ids = None if subject.templates else subject.token_ids(self.stored)
        self.known: Known | None = None
        try:
            self.known = look_up(self.stored, parse(self.stored, text))
        except RecipeError:
            if self.ids is not None:
                raise
        self.prompt = self._tokens(self.known)[0] if self.known else self._encoded(text)
        self.facts = facts_used(self.stored, self.known.prompt) if self.known else []

    def _tokens(self, known: Known) -> tuple[list[int], list[int] | None]:
        """A prompt and its right answer in tokens of the model; as text where the model knows the corpus as text."""
        if self.ids is not None:
            answer = None if known.answer is None else [self.ids[word] for word in known.answer]
            return [self.ids[word] for word in known.prompt], answer
        import numpy as np

        texts = list[str]()
        head = heads(self.stored, np.array([known.prompt]), known.type, self.subject.templates or PLAIN, texts)
        if known.answer is None:
            return self._encoded(texts[0].rstrip(" ")), None
        row = encode_rows(self.subject.tokenizer, texts, [said(self.stored, head, known.answer)])
        start, stop = int(row.prompt_N[0]), int(row.prompt_N[0] + row.answer_N[0])
        ids = row.tokens_NT[0].tolist()
        return ids[:start], ids[start:stop]

    def _encoded(self, text: str) -> list[int]:
        try:
            (ids,) = encode(self.subject.tokenizer, [text])
        except UnknownWordsError as error:
            raise RecipeError("prompt", str(error)) from None
        if not ids:
            raise RecipeError("prompt", "is empty")
        return ids

    @cached_property
    def right(self) -> Known | None:
        """What the corpus says is right: of its splits, or of the facts that lead there."""
        if self.known is None or self.known.answer is not None:
            return self.known
        relations = len(self.known.prompt) - len(self.facts[0].prompt) + 1 if self.facts else 0
        whole = relations and len(self.facts) == relations
        return Known(self.known.prompt, answer=self.facts[-1].answer, type=self.known.type) if whole else None

    @cached_property
    def _words(self) -> dict[int, int]:
        return {token: word for word, token in enumerate(self.ids or ())}

    @cached_property
    def _ends(self) -> set[int]:
        """The tokens of the model with which an answer ends."""
        if self.ids is None:
            return {token for token in (self.subject.tokenizer.eos_token_id,) if isinstance(token, int)}
        return {self.ids[word] for word, text in enumerate(self.stored.tokens) if text in ENDS}

    def _text(self, answer: list[int]) -> str:
        if self.ids is None:
            return str(self.subject.tokenizer.decode(answer)).strip()
        if all(token in self._words for token in answer):
            return answer_text(self.stored, (self._words[token] for token in answer))
        return str(self.subject.tokenizer.decode(answer))

    def ask(self, model: Any, step: int | None, most: int = 5) -> dict[str, Any]:
        """What the model answers: the likeliest answers, the right one, and how well it knows each fact."""
        from pipeline.ask.answers import likeliest, probability

        length = TEXT_TOKENS if self.ids is None or self.known is None else answer_length(self.stored, self.known)
        right = None if self.right is None else self._tokens(self.right)[1]
        if self.ids is None and right is not None:
            length = len(right)
        if (needed := len(self.prompt) + length - 1) > longest(model.config):
            most_tokens = f"the model has {longest(model.config)} positions"
            raise RecipeError("prompt", f"has {needed} tokens with its answer, and {most_tokens}")
        answers = [
            {"answer": self._text(answer), "probability": p, "right": right is not None and answer == right}
            for answer, p in likeliest(model, self.prompt, length, self._ends, most)
        ]
        facts = list[dict[str, Any]]()
        for fact in self.facts:
            prompt, answer = self._tokens(fact)
            facts.append(
                {
                    "prompt": text_of(self.stored, fact.prompt),
                    "answer": answer_text(self.stored, fact.answer or ()),
                    "splits": fact.splits,
                    "probability": probability(model, prompt, answer or []),
                }
            )
        return {
            "run": self.subject.name,
            "step": step,
            "prompt": self.text,
            "splits": self.known.splits if self.known else None,
            "standing": standing(self.stored, self.known) if self.known else "is no prompt in the words of the corpus",
            "right": None if self.right is None else answer_text(self.stored, self.right.answer or ()),
            "right_probability": None if right is None else probability(model, self.prompt, right),
            "notes": self.known.notes if self.known else {},
            "answers": answers,
            "facts": facts,
        }


def bar(value: float, width: int = BAR) -> str:
    """A share as a bar; of plain signs where the output has no others."""
    try:
        "█▏".encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return "#" * round(value * width)
    eighths = round(value * width * 8)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def as_lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found at one step, as lines for a terminal."""
    right = f"; right is {found['right']}" if found["right"] is not None else ""
    yield f"{found['prompt']}   {found['standing']}{right}"
    width = max(len(each["answer"]) for each in found["answers"])
    for each in found["answers"]:
        mark = "*" if each["right"] else " "
        yield f" {mark} {each['answer']:>{width}}  {share(each['probability'])}  {bar(each['probability'])}".rstrip()
    if found["right"] is not None and not any(each["right"] for each in found["answers"]):
        yield f"   the right answer has probability {share(found['right_probability'])}"
    for name, word in found["notes"].items():
        yield f"   {name} {word}"
    for fact in found["facts"]:
        where = "trained" if "train" in fact["splits"] else f"held out, in {' and '.join(fact['splits'])}"
        yield f"   {fact['prompt']} -> {fact['answer']}  ({where}; its probability is {share(fact['probability'])})"


def over_steps(results: list[dict[str, Any]]) -> Iterator[str]:
    """How the answer changed over training: at each step the likeliest one, and how likely the right one is."""
    first = results[0]
    right = f"; right is {first['right']}" if first["right"] is not None else ""
    yield f"{first['prompt']}   {first['standing']}{right}"
    tops = [found["answers"][0] for found in results]
    width = max(6, *(len(top["answer"]) for top in tops))
    steps = max(4, *(len(f"{found['step']:,}") for found in results))
    yield f"{'step':>{steps}}    {'answer':>{width}}  its p  {'p of the right one' if right else ''}".rstrip()
    room = min(BAR, max(shutil.get_terminal_size((100, 24)).columns - steps - width - 24, 5))
    for found, top in zip(results, tops):
        mark, p = "*" if top["right"] else " ", found["right_probability"]
        known = "" if p is None else f"{share(p)}  {bar(p, room)}"
        answer = f"{mark} {top['answer']:>{width}}  {share(top['probability'])}"
        yield f"{found['step']:>{steps},}  {answer}  {known}".rstrip()
