"""What a corpus knows of a prompt: the splits that it stands in, its answer, and the facts that lead to it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pipeline.corpora.base import PAD
from pipeline.corpora.store import StoredCorpus
from pipeline.data.templates import ENDS
from pipeline.evaluate.facets import RELATION
from pipeline.utils.errors import RecipeError

PIECES = re.compile(r"<[^<>\s]+>|[^\s<]+|<")


@dataclass(frozen=True)
class Known:
    """A prompt in tokens of the corpus, the splits that hold it, and its answer where one is known.

    `type` is the corpus's word for the kind of fact, `notes` are further words such as the bridge entity.
    """

    prompt: list[int]
    splits: list[str] = field(default_factory=list)
    answer: list[int] | None = None
    type: str = ""
    notes: dict[str, str] = field(default_factory=dict)


def words_of(stored: StoredCorpus) -> list[str]:
    """The words that a prompt may have."""
    return stored.tokens[: stored.tokens.index(PAD)]


def parse(stored: StoredCorpus, text: str) -> list[int]:
    """The tokens of a prompt; `e_5` may stand for `<e_5>`.

    Raises:
        RecipeError: when it is empty or has a word that the corpus does not know, with the nearest ones.
    """
    known = {word: i for i, word in enumerate(words_of(stored))}
    pieces = PIECES.findall(text)
    if not pieces:
        raise RecipeError("prompt", f"is empty; the corpus has prompts such as {example(stored)}")
    found = []
    for piece in pieces:
        token = known.get(piece, known.get(f"<{piece}>"))
        if token is None:
            raise RecipeError("prompt", f"{piece!r} is no word of the corpus{nearest(piece, known)}")
        found.append(token)
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause with the three words that are most like one that is not known; the nearest numbers of a number."""
    known = list(known)
    numbers = [each for each in known if each.isascii() and each.isdigit()]
    if numbers and re.fullmatch(r"-?[0-9]{1,15}", word):
        close = sorted(numbers, key=lambda each: abs(int(each) - int(word)))[:3]
    else:
        close = difflib.get_close_matches(word, known, n=3, cutoff=0.3)
    return f"; nearest: {', '.join(close)}" if close else ""


def example(stored: StoredCorpus) -> str:
    """A prompt of the last split, as text."""
    block = next(stored.blocks(list(stored.sizes)[-1]))
    return text_of(stored, block.prompts[0].tolist())


def text_of(stored: StoredCorpus, tokens: Iterable[int]) -> str:
    """Tokens as the corpus writes them."""
    return stored.corpus.separator.join(stored.tokens[token] for token in tokens)


def answer_text(stored: StoredCorpus, tokens: Iterable[int]) -> str:
    """The same without the token that ends an answer."""
    return text_of(stored, (token for token in tokens if stored.tokens[token] not in ENDS))


def look_up(stored: StoredCorpus, prompt: list[int]) -> Known:
    """What the splits say of a prompt."""
    splits, answer, kind, notes = list[str](), None, "", dict[str, str]()
    for split in stored.sizes:
        for block in stored.blocks(split):
            if block.prompts.shape[1] != len(prompt):
                continue
            rows = np.flatnonzero((block.prompts == prompt).all(axis=1))
            if len(rows):
                splits += [split] if split not in splits else []
                answer, kind = block.answers[rows[0]].tolist(), block.type
                notes = {name: stored.tokens[note[rows[0]]] for name, note in block.notes.items() if note[rows[0]] >= 0}
    return Known(prompt, splits, answer, kind, notes)


def facts_used(stored: StoredCorpus, prompt: list[int]) -> list[Known]:
    """The facts of one hop that lead from a head by several relations to an answer, as far as the corpus has them."""
    places = stored.corpus.places(len(prompt))
    relations = [token for token, place in zip(prompt, places) if RELATION.fullmatch(place)]
    head = prompt[: len(prompt) - len(relations)]
    if len(relations) < 2 or prompt != [*head, *relations]:
        return []
    facts = []
    for relation in relations:
        fact = look_up(stored, [*head, relation])
        if fact.answer is None:
            break
        facts.append(fact)
        head = [token for token in fact.answer if stored.tokens[token] not in ENDS]
    return facts


def answer_length(stored: StoredCorpus, known: Known) -> int:
    """Tokens of the answer: of a prompt that no split has, as many as prompts of its length have, or at most any."""
    if known.answer is not None:
        return len(known.answer)
    shapes = [(b.prompts.shape[1], b.answers.shape[1]) for split in stored.sizes for b in stored.blocks(split)]
    same = [answer for prompt, answer in shapes if prompt == len(known.prompt)]
    return max(same or [answer for _, answer in shapes])


def standing(stored: StoredCorpus, known: Known) -> str:
    """In words whether a prompt was trained."""
    if not known.splits:
        return "stands in no split: neither trained nor measured"
    if "train" in known.splits:
        probes = [split for split in known.splits if split != "train"]
        return f"trained{f', and in the probe {probes[0]}' if probes else ''}"
    return f"held out, in {' and '.join(known.splits)}"
