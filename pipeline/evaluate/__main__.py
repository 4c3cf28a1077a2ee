"""Exact match and loss of any model on any corpus, by split and by what its rows have in common.

python -m pipeline.evaluate runs/quickstart --steps log
python -m pipeline.evaluate runs/composition_small@grok --by hops,relation --format csv
python -m pipeline.evaluate EleutherAI/pythia-160m@step1000 --corpus group --template "{p0} plus {p1} is {answer}"
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any

from pipeline.config.coerce import convert, fill
from pipeline.config.registry import load, names, room_name
from pipeline.config.trust import HELP, OPTION
from pipeline.config.yaml_nodes import Block, override
from pipeline.corpora.base import Corpus
from pipeline.corpora.store import StoredCorpus, build
from pipeline.evaluate.output import FORMATS, as_bytes, as_text, format_of
from pipeline.evaluate.subject import RunSubject, Subject, open_subject
from pipeline.hub.repository import HubError
from pipeline.kernels.host import wait_briefly
from pipeline.runs.checkpoints import check_steps
from pipeline.utils.arguments import Parser
from pipeline.utils.errors import MISTAKES, RecipeError
from pipeline.utils.files import write_bytes, writing
from pipeline.utils.paths import expanded
from pipeline.utils.suggest import did_you_mean
from pipeline.utils.terminal import in_a_line, is_watched, run_command, say


def parser() -> Parser:
    found = Parser(
        prog="python -m pipeline.evaluate",
        description="Exact match (teacher-forced, and decoded greedily) and loss of a model on a corpus.",
        epilog="A parameter of the corpus: --corpus.KEY VALUE, also of the run's own; `python -m pipeline.corpora NAME "
        "--help` lists them. Text by the type of a row: --templates.TYPE TEXT.",
        is_open=True,
    )
    found.add_argument(
        "model",
        metavar="MODEL[@STEP]",
        help="folder of a run, folder of save_pretrained, or name on the Hub; STEP is a number, grok, fit or last",
    )
    found.add_argument("--corpus", metavar="NAME", help=f"one of {', '.join(names('corpora'))} (the run's own)")
    found.add_argument("--split", metavar="NAME[,NAME]", help="such as id,ood (all)")
    found.add_argument("--steps", help="kept steps of a run: all, log, last, or numbers such as 0,1000 (last)")
    found.add_argument(
        "--by", metavar="NAME[,NAME]", default="", help="also by type, length, answer_length, a place such as r1, "
        "a note such as bridge, or what the corpus knows, such as hops and relation"
    )  # fmt: skip
    found.add_argument(
        "--rows", type=int, metavar="N", help="most rows of a split, drawn as max_eval_samples does (all)"
    )
    found.add_argument("--decode", type=int, metavar="N", default=256, help="rows of a split that are decoded (256)")
    found.add_argument(
        "--template", metavar="TEXT", help="rows as text that ends with {answer}, of {prompt} or {p0}, ..."
    )
    found.add_argument("--revision", help="of a model on the Hub, such as step1000")
    found.add_argument("--format", choices=FORMATS, help="of what is written (text, or by the name of --output)")
    found.add_argument("--output", type=Path, metavar="FILE", help="in the place of the terminal")
    found.add_argument("--batch", type=int, metavar="N", help="rows at a time (as the run took, or 512)")
    found.add_argument("--device", help="cpu, cuda, cuda:1 ... (cuda where there is one)")
    found.add_argument(OPTION, action="store_true", help=HELP)
    return found


@in_a_line
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 a mistake."""
    chosen, rest = parser().parse_known_args(arguments)
    wait_briefly()
    try:
        tree = Block({}, "command line")
        override(tree, rest)
        check(chosen, tree)
        with contextlib.redirect_stdout(sys.stderr):  # libraries print there what is no part of a table
            content = evaluate(chosen, tree)
        put(content, chosen.output)
    except (*MISTAKES, HubError) as error:
        say(error, file=sys.stderr)
        return 2
    return 0


def check(chosen: argparse.Namespace, tree: Block) -> None:
    """What is known to be wrong before anything is read.

    Raises:
        RecipeError: with the option.
    """
    for key in tree.entries:
        if key not in ("corpus", "templates"):
            raise RecipeError("command line", f"--{key} is no option here{did_you_mean(key, vars(chosen))}")
    for name, least in {"rows": 1, "decode": 0, "batch": 1}.items():
        value = getattr(chosen, name)
        if value is not None and value < least:
            raise RecipeError(f"--{name}", f"{value} is not a whole number >= {least}")
    if chosen.steps is not None:
        check_steps(chosen.steps, "--steps")
    if format_of(chosen.format, chosen.output) == "parquet" and chosen.output is None:
        raise RecipeError("--format", "parquet is for a file; add --output FILE")


def evaluate(chosen: argparse.Namespace, tree: Block) -> bytes:
    """What is found, in the format that is asked for."""
    from rich.console import Console
    from rich.progress import track
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    subject = open_subject(chosen.model, chosen.revision, chosen.trust_remote_code)
    steps = subject.steps(chosen.steps)
    stored = corpus_of(subject, chosen.corpus, tree)
    splits = chosen.split.split(",") if chosen.split else list(stored.sizes)
    for split in splits:
        if split not in stored.sizes:
            raise RecipeError("--split", f"there is no split {split!r}{did_you_mean(split, stored.sizes)}")
    if templates := templates_of(chosen.template, tree):
        subject.templates = templates
    from pipeline.evaluate.measure import COLUMNS, Measurement
    from pipeline.kernels.device_names import device

    by = [name for name in chosen.by.split(",") if name]
    here = device(chosen.device)
    measurement = Measurement(subject, stored, splits, by, chosen.rows, chosen.decode, here, chosen.batch)
    console, found = Console(stderr=True), list[dict[str, Any]]()
    for step in track(steps, "measuring", console=console, transient=True, disable=not is_watched(sys.stderr)):
        found += measurement.at(step)
    form = format_of(chosen.format, chosen.output)
    if form != "text":
        return as_bytes(found, COLUMNS, form)
    head = f"{subject.name} on {room_name(stored.corpus)}, content hash {stored.content_hash[:16]}"
    return f"{head}\n{as_text(found)}\n".encode()


def put(content: bytes, output: Path | None) -> None:
    """Writes a result into a file, whose name is said then, or onto the terminal."""
    if output is None:
        say(*content.decode().splitlines())
        return
    path = expanded(output, "--output")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    say(path)


def corpus_of(subject: Subject, name: str | None, tree: Block) -> StoredCorpus:
    """The corpus that is named, or the run's own, with the parameters of the command line.

    Raises:
        RecipeError, ParameterError: when there is none, or a parameter is not allowed.
    """
    given = tree.entries.get("corpus", Block({}, tree.where))
    if not isinstance(given, Block):
        raise RecipeError("command line", "--corpus: name a corpus, and write its parameters as --corpus.KEY VALUE")
    own: Corpus | None = subject.run.recipe.corpus if isinstance(subject, RunSubject) else None
    if name is not None:
        kind: Any = load("corpora", name, "corpus")
        return build(fill(kind, given, "corpus", name))
    if own is None:
        raise RecipeError("--corpus", f"is needed, as {subject.name} is no run; allowed: {', '.join(names('corpora'))}")
    if isinstance(subject, RunSubject) and not given.entries:
        return subject.run.folder.stored
    changed = fill(type(own), given, "corpus", room_name(own))
    return build(dataclasses.replace(own, **{key: getattr(changed, key) for key in given.entries}))


def templates_of(template: str | None, tree: Block) -> dict[str, str]:
    """The text of rows by their type, as the command line has it; empty where it says nothing.

    Raises:
        ParameterError: when one is not a prompt that ends with {answer}.
    """
    from pipeline.models.pretrained import Pretrained

    block = tree.entries.get("templates")
    found: dict[str, str] = {} if block is None else convert(block, dict[str, str], "templates")
    if template is not None:
        found["default"] = template
    return dict(Pretrained("any", templates=found).templates) if found else {}


if __name__ == "__main__":
    run_command(main)
