"""The command line of a recipe, and its help."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import shutil
import textwrap
import typing
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pipeline.config import trainer_keys as arguments
from pipeline.config.coerce import words, written
from pipeline.config.fields import Parameters, parameters_of
from pipeline.config.options import Options
from pipeline.config.registry import BLOCKS, ROOMS, block, load, names
from pipeline.config.trust import without_option
from pipeline.config.yaml_nodes import pairs
from pipeline.utils.errors import RecipeError
from pipeline.utils.seeds import SEEDS
from pipeline.utils.suggest import did_you_mean

START = """\
usage: python -m pipeline.run RECIPE [--key value ...]
       accelerate launch pipeline/run.py RECIPE [--key value ...]

Trains what a recipe says, measures and keeps it, and writes a report, all in runs/<recipe>.
The same command resumes a run that was interrupted.
--fork RUN@STEP goes on from a step of another run, in a folder of its own, under other keys.
An earlier stage, which model.recipe names, is trained first where it is not finished. A key behind model.recipe. is for
that stage, and no other key is: --model.recipe.seed 1, with a folder of its own by --model.recipe.output_dir.

  python -m pipeline.run recipes/quickstart.yaml
  python -m pipeline.run recipes/quickstart.yaml --seed 1 --output_dir runs/seed1
  python -m pipeline.run recipes/quickstart.yaml --fork runs/quickstart@900 --weight_decay 0.1 --output_dir runs/less
  python -m pipeline.run recipes/grok_gpt2.yaml --corpus.ratio 18 --max_steps 20
  python -m pipeline.run recipes/grok_gpt2.yaml --check

--check says what a run would take on this machine and leaves nothing behind: rows, parameters, steps, disk, memory, the
analyses that fit, and how long, from three steps that it trains. --check=recipe reads the recipe alone.

Code that comes with a base model runs only with --trust-remote-code, whatever the recipe says.

A recipe is a YAML file of blocks and flat keys. On the command line --block.key value or --key value overrides it.
--help NAME tells more of any name below, such as --help group or --help optim, and of their keys: --help model.n_layer.
"""
CHECK, READ = "--check", "--check=recipe"
LEFT = 30  # columns of a key and its default


class HelpEntry(NamedTuple):
    """A key of the help: its default, what it does, and what it takes, in words."""

    key: str
    default: Any
    about: str
    takes: str


def split_words(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the recipe's path, and the words of the overrides. `--config PATH` names the recipe too.

    Raises:
        RecipeError: when no recipe is named, or a second one.
    """
    path: str | None = None
    overrides = []
    for key, value in pairs(without_option(list(argv))):
        if key not in (None, "config"):
            overrides.append(f"--{key}" if value is None else f"--{key}={value}")
        elif value is None or value.startswith("-"):
            raise RecipeError("command line", f"{value or '--config'}: is no recipe; write RECIPE --key value")
        elif path is not None:
            hint = "overrides are written --key value, and lists [a, b]"
            raise RecipeError("command line", f"{value}: a run has one recipe, here {path}; {hint}")
        else:
            path = value
    if path is None:
        raise RecipeError("command line", "no recipe; name one, such as recipes/quickstart.yaml")
    return path, overrides


def split_check(words: Sequence[str]) -> tuple[list[str], str]:
    """Return the words without `--check`, and how it was written; empty where it was not.

    Raises:
        RecipeError: when it is given anything but `recipe`.
    """
    found = [word for word in words if word.partition("=")[0] == CHECK]
    for word in found:
        if word not in (CHECK, READ):
            raise RecipeError("command line", f"{word}: write {CHECK}, or {READ} to read the recipe alone")
    return [word for word in words if word not in found], found[-1] if found else ""


def wants_help(argv: Sequence[str]) -> bool:
    return not argv or "--help" in argv or "-h" in argv


def help_text(argv: Sequence[str] = ()) -> str:
    """Return the help, or that on the name behind `--help`; needs no torch.

    Raises:
        RecipeError: when nothing has that name.
    """
    topic = next((name for word, name in itertools.pairwise(argv) if word in ("--help", "-h")), None)
    return _everything() if topic is None else _topic(topic.strip("-"))


def _everything() -> str:
    blocks = {
        "corpus": f"what is learned; its name is one of {', '.join(names('corpora'))}",
        "model": f"what learns it; its name is one of {', '.join(names('models'))}",
        "objective": f"the loss; its name is one of {', '.join(names('objectives'))}",
        "optimizer": f"changes of the gradients, or of the optimizer: {', '.join(names('optim'))}",
        "collator": f"changes of the prompts, drawn anew in every update: {', '.join(names('collators'))}",
        "peft": "low-rank adapters for a model that is continued",
        "replay": "natural text that is trained beside the corpus, against forgetting",
        "checkpoints": "the steps whose weights are kept for ever",
        "callbacks": f"what is watched: {', '.join(names('callbacks'))}",
        "circuits": f"what is explained at the kept steps: {', '.join(names('circuits'))}",
        "paper": "where it comes from and the numbers to expect, for the report",
    }
    return "\n".join(
        (
            _wrapped(START),
            "",
            _section("Blocks", (_columns(key, about) for key, about in blocks.items())),
            _section("Seeds, and what each moves", (_columns(key, about) for key, about in SEEDS.items())),
            _section("Flat keys, with their defaults", map(_long, _entries(Options))),
            _section("Flat keys of transformers' TrainingArguments", map(_short, _flat().values())),
        )
    )


def _topic(topic: str) -> str:
    """Return what there is to say of an entry of a room, a block or a flat key."""
    inside = {room: what for room, what in ROOMS.items() if room != "claims"}  # which no recipe names
    rooms = {what: room for room, what in inside.items()} | {room: room for room in inside if room != "optim"}
    found = [(room, topic) for room in inside if topic in names(room)]
    if topic in rooms:
        found = [(rooms[topic], name) for name in names(rooms[topic])]
    if found:
        return "\n".join(_kind(load(*entry, "help"), _heading(*entry)) for entry in found)
    if topic in BLOCKS:
        return _kind(block(topic), f"{topic}:")
    flat = {entry.key: entry for entry in _entries(Options)} | _flat()
    if topic in flat:
        return _section(f"{topic}: {written(flat[topic].default)}", [_wrapped(_sentence(flat[topic]), "  ")])
    if lines := _keys(topic, [(room, name) for room in inside for name in names(room)]):
        return "\n".join(lines)
    known = [*rooms, *BLOCKS, *flat, *(name for room in inside for name in names(room))]
    raise RecipeError("command line", f"--help {topic}: nothing has this name{did_you_mean(topic, known)}")


def _keys(topic: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    """Return what there is to say of a key, written as KEY, BLOCK.KEY or NAME.KEY, in all that have it."""
    *place, key = topic.split(".")
    found: dict[str, list[str]] = {}
    kinds = [({room, ROOMS[room], name}, name, load(room, name, "help")) for room, name in entries]
    for where, name, kind in [*kinds, *(({name}, name, block(name)) for name in BLOCKS)]:
        for entry in _entries(kind) if where.issuperset(place) else ():
            if entry.key == key:
                found.setdefault(_long(entry), []).append(name)
    return [_section(_wrapped(f"{', '.join(owners)}:"), [text]) for text, owners in found.items()]


def _heading(room: str, name: str) -> str:
    if room in ("corpora", "models", "objectives"):
        return f"{ROOMS[room]}: {{name: {name}}}"
    return f"{ROOMS[room] if room in ('optim', 'collators') else room}: {{{name}: {{}}}}"


def _entries(kind: type[Parameters]) -> list[HelpEntry]:
    types = typing.get_type_hints(kind)
    return [
        HelpEntry(
            field.name,
            {} if field.default is dataclasses.MISSING else field.default,
            field.metadata.get("help", ""),
            words(types[field.name], field.metadata),
        )
        for field in parameters_of(kind)
        if field.name not in kind.unused
    ]


def _flat() -> dict[str, HelpEntry]:
    return {
        name: HelpEntry(name, key.default, key.help, words(key.kind, key.metadata))
        for name, key in arguments.keys().items()
    }


def _kind(kind: type[Parameters], heading: str) -> str:
    about, entries = _wrapped(inspect.getdoc(kind) or "", "  "), _entries(kind)
    return _section(heading, [about, *[""] * bool(entries), *map(_long, entries)])


def _long(entry: HelpEntry) -> str:
    return _columns(f"{entry.key}: {written(entry.default)}", _sentence(entry))


def _short(entry: HelpEntry) -> str:
    """Return a key in one line; --help NAME tells the rest."""
    about = textwrap.shorten(entry.about.partition(". ")[0].rstrip("."), _width() - LEFT - 2, placeholder=" ...")
    return _columns(f"{entry.key}: {written(entry.default)}", about)


def _sentence(entry: HelpEntry) -> str:
    return f"{entry.about} ({entry.takes})"


def _columns(left: str, right: str) -> str:
    """Two columns; a left side that is too wide has its line for itself."""
    wrapped = textwrap.wrap(right, _width(), initial_indent=" " * LEFT, subsequent_indent=" " * LEFT)
    if len(left) + 4 > LEFT:
        return "\n".join([textwrap.fill(left, _width(), initial_indent="  ", subsequent_indent="    "), *wrapped])
    return "\n".join([f"  {left}".ljust(LEFT) + "".join(wrapped[:1])[LEFT:], *wrapped[1:]])


def _section(heading: str, lines: Iterable[str]) -> str:
    return "\n".join([heading, *lines, ""])


def _wrapped(text: str, indent: str = "") -> str:
    """Paragraphs, broken anew at the width of the terminal; lines that begin with spaces or `usage` stay."""
    found: list[str] = []
    for stays, lines in itertools.groupby(text.splitlines(), lambda line: not line or line.startswith((" ", "usage"))):
        if stays:
            found += lines
        else:
            found.append(textwrap.fill(" ".join(lines), _width(), initial_indent=indent, subsequent_indent=indent))
    return "\n".join(found)


def _width() -> int:
    return min(max(shutil.get_terminal_size((100, 24)).columns, 60), 120)
