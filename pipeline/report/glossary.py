"""The words of reports, each in a sentence or two; docs/glossary.md has them all, a report those that it uses."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.runs.grokking import DELAY, THRESHOLD, UNLEARNED

TERMS: Mapping[str, str] = {
    "answer": (
        "The tokens after a prompt that are trained and judged; of a corpus that trains all tokens, the last ones."
    ),
    "arm": "In a claim, one of the settings that are compared.",
    "atomic fact": "A fact of one hop, `h r t`: relation r leads from head h to tail t. An edge of the graph.",
    "attribution": "A score of each edge of the model's graph: how much the answer would change if the edge "
    "carried what it carries on a corrupted prompt; by gradients, so for all edges at once.",
    "bridge": "In a two-hop fact, the entity that the first relation leads to and the prompt does not name.",
    "causal tracing": (
        "A state of a corrupted run is put into a clean one, place by place: where the answer changes, it was carried."
    ),
    "checkpoint": "All that training needs to go on: weights, optimizer, random state. Only the newest few stay.",
    "clean and corrupted": "A pair of prompts that differ in one thing and have other answers.",
    "decoded": "Exact match of what `generate` writes, token by token, without being given the true answer so far.",
    "exact match": "The share of rows whose answer is right in every token.",
    "excluded loss": (
        "The loss when the components that carry the answer are taken out; it rises as the model comes to need them."
    ),
    "fit step": f"The first evaluation at which exact match on `train` is at least {THRESHOLD}.",
    "fork": "A run that goes on from a step of another one under other keys.",
    "gap": "Gen step over fit step.",
    "gen step": (
        f"The first evaluation at which exact match on `id`, or else the first held-out split, is at least {THRESHOLD}."
    ),
    "grok step": (
        f"A gen step that is delayed: at least {DELAY} times the fit step, or from below {UNLEARNED} when "
        "`train` was fitted."
    ),
    "held out": "Not trained. No prompt of such a split is in `train`, which every build of a corpus proves.",
    "id (in distribution)": (
        "Held-out prompts of the kind that is trained, of facts that are used in other trained rows."
    ),
    "inferred fact": "A fact that follows from two or more others, such as `h r1 r2 t`.",
    "kept step": "A step whose weights stay for ever, in `steps/stepN`.",
    "logit lens": "The output projection applied to a state inside of the model: what could be read there already.",
    "manifest": "The list of what a run has kept, with hashes.",
    "ood (out of distribution)": "Compositions of facts that are trained, and in no trained composition.",
    "patching": "A state is replaced by that of another prompt, and the change of the answer is measured.",
    "probe": "A split of rows that are trained, measured beside the others, such as `train_inferred`.",
    "ratio": "Inferred facts that are trained for each atomic fact that may be used in them.",
    "replay": "Natural text that is trained beside the corpus, against forgetting.",
    "restricted loss": (
        "The loss of what the components that carry the answer compute by themselves; it falls as they form."
    ),
    "softmax collapse": "A probability that rounds to exactly 1 in float32, after which a row has no gradient.",
    "stays": f"The share of evaluations after the gen step at which exact match is {THRESHOLD} or above.",
    "weight decay": "The pull of all weights towards zero, which makes memorizing expensive.",
}


def used_in(texts: str) -> list[list[str]]:
    """The terms that texts use, with what they mean, as rows of a table."""
    words = texts.lower().replace("_", " ")
    names = {term: term.partition(" (")[0] for term in TERMS}
    return [[term, what] for term, what in TERMS.items() if re.search(rf"\b{re.escape(names[term])}s?\b", words)]


def as_page() -> str:
    """The glossary as docs/glossary.md has it."""
    rows = "\n".join(f"| {term} | {what} |" for term, what in TERMS.items())
    head = "# Glossary\n\nThe words of reports, messages and these pages."
    return f"{head}\n\n| word | what it means |\n|---|---|\n{rows}\n"
