"""What a run answers some of its prompts at its kept steps, as plain values."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline.ask.corpus import text_of
from pipeline.evaluate.subject import RunSubject
from pipeline.utils.seeds import sample


class Course(NamedTuple):
    """Steps, prompts with where they stand and what is right, and by step and prompt the likeliest answer.

    An answer has its probability, and whether it is right.
    """

    steps: list[int]
    prompts: list[tuple[str, str, str]]
    answers: list[list[tuple[str, float, bool]]]


def course(subject: RunSubject, steps: str, most: int, device: Any = "cpu") -> Course:
    """Ask `most` prompts of `train` and of each held-out split at some steps; the same prompts every time."""
    from pipeline.ask.prompt import Prompt

    stored = subject.run.folder.stored
    texts = list[str]()
    for split in ("train", *stored.held_out):
        drawn = sample(stored.sizes[split], most, split, "demonstration")
        wanted, start = set(range(stored.sizes[split]) if drawn is None else drawn.tolist()), 0
        for block in stored.blocks(split):
            texts += [
                text_of(stored, block.prompts[i - start].tolist())
                for i in sorted(wanted)
                if 0 <= i - start < len(block)
            ]
            start += len(block)
    questions = [Prompt(subject, text) for text in texts]
    found, chosen = [], [step for step in subject.steps(steps) if step is not None]
    for step in chosen:
        model = subject.model(step, device)
        found.append([question.ask(model, step, 1) for question in questions])
    prompts = [(each["prompt"], each["standing"], each["right"] or "") for each in (found[-1] if found else [])]
    answers = [
        [(each["answers"][0]["answer"], each["answers"][0]["probability"], each["answers"][0]["right"]) for each in row]
        for row in found
    ]
    return Course(chosen, prompts, answers)
