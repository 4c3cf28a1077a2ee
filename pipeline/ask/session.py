"""A session of questions: prompts line by line, with history and completion of the corpus's words."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

from pipeline.ask.corpus import text_of, words_of
from pipeline.corpora.store import StoredCorpus, cache_home
from pipeline.utils.draws import Draws
from pipeline.utils.errors import MISTAKES, RecipeError
from pipeline.utils.suggest import did_you_mean
from pipeline.utils.terminal import say

HELP = """\
PROMPT      what the model answers, such as {example}
? [SPLIT]   a prompt of a split, drawn at random
@STEP       another kept step: {steps}
steps       the last prompt at all steps, one for each third of an octave
help        this; an empty line ends"""
HISTORY = "ask_history"  # in the cache


def converse(stored: StoredCorpus, steps: list[int], ask: Callable[[str, str | None], list[str]], step: int) -> None:
    """Answers lines of the standard input until there are no more, or an empty one.

    Args:
        stored: The corpus.
        steps: Those that were kept.
        ask: The lines for a prompt, at a step or at several (`log`).
        step: Where it begins.
    """
    is_person, last, drawn = sys.stdin.isatty(), "", 0
    if is_person:
        say("a prompt, ? for one at random, help for more; an empty line ends")
    with _history(words_of(stored)) if is_person else contextlib.nullcontext():
        while line := _line(f"step {step:,} > " if is_person else ""):
            try:
                if line == "help":
                    kept = ", ".join(map(str, steps[:4])) + (f", ... {steps[-1]}" if len(steps) > 4 else "")
                    say(*HELP.format(example=_drawn(stored, None, 0), steps=kept).splitlines())
                elif line.startswith("@"):
                    word = line[1:].removeprefix("step").strip()
                    if not word.isdecimal() or int(word) not in steps:
                        raise RecipeError(line, f"was not kept; kept are {', '.join(map(str, steps))}")
                    step = int(word)
                elif line == "steps":
                    if not last:
                        raise RecipeError("steps", "shows the last prompt over training; ask one first")
                    say(*ask(last, "log"))
                else:
                    if line.startswith("?"):
                        line, drawn = _drawn(stored, line[1:].strip() or None, drawn), drawn + 1
                    say(*ask(line, str(step)))
                    last = line
            except MISTAKES as error:
                say(error, file=sys.stderr)


def _line(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


def _drawn(stored: StoredCorpus, split: str | None, number: int) -> str:
    """A prompt of a split: the first held-out one, unless another is named."""
    split = split or next(iter(stored.held_out), "train")
    if split not in stored.sizes:
        raise RecipeError("?", f"there is no split {split!r}{did_you_mean(split, stored.sizes)}")
    place = int(Draws(number, "question").below(stored.sizes[split], 1)[0])
    for block in stored.blocks(split):
        if place < len(block):
            break
        place -= len(block)
    return text_of(stored, block.prompts[place].tolist())


@contextlib.contextmanager
def _history(words: list[str]) -> Any:
    """Lines of earlier sessions, and completion of words, where Python has readline."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    file = cache_home() / HISTORY

    def complete(text: str, number: int) -> str | None:
        fitting = [word for word in words if word.startswith((text, f"<{text}"))]
        return fitting[number] if number < len(fitting) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("tab: complete")
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        readline.set_history_length(1000)
        with contextlib.suppress(OSError):  # a session is none the worse for it
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
