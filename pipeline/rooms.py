"""The folder is the registry: a name in a recipe is a file in one of the four rooms.

`corpus: {name: composition}` means the class `Composition` in `pipeline/corpora/composition.py`. To add a corpus, an
architecture, a callback or an analysis, add one file; nothing else is edited. A room's file imports torch and
transformers inside its functions, so that reading a recipe needs neither.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.parameters import ParameterError, Parameters

# Room -> what one of its files is called in messages.
ROOMS = {"corpora": "corpus", "models": "model", "callbacks": "callback", "circuits": "analysis"}
# Files of a room that are not entries: its contract, and helpers that its entries share.
HELPERS = ("base", "hooks")
MOST_LISTED = 200  # characters of a list of names that a message can hold


def names(room: str) -> list[str]:
    """The entries of a room, sorted; modelling code that travels with a model is none of them."""
    files = (Path(__file__).parent / room).glob("*.py")
    return sorted(
        file.stem for file in files if file.stem not in HELPERS and not file.stem.startswith(("_", "modeling_"))
    )


def load(room: str, name: str, key: str) -> type[Parameters]:
    """The class behind `name` in `room`; `key` says where the name was given.

    Raises:
        ParameterError: when the room has no such file.
    """
    if name not in names(room):
        raise ParameterError(key, f"there is no {ROOMS[room]} {name!r}{choose(name, names(room))}")
    module = importlib.import_module(f"pipeline.{room}.{name}")
    return getattr(module, "".join(part.capitalize() for part in name.split("_")))


def room_name(entry: Parameters) -> str:
    """The name under which a recipe finds an entry of a room: its file's."""
    return type(entry).__module__.rpartition(".")[2]


def choose(word: str, options: Iterable[str], otherwise: str = "") -> str:
    """A clause such as `; did you mean ratio? allowed: ratio, seed`.

    It names the closest of `options`, and all of them where they are few; with neither it is what `otherwise` says.
    """
    options, word = list(options), word.lower()
    part = [option for option in options if len(word) > 2 and word in option]
    close = [option for option in part if option.startswith(word)]
    close += difflib.get_close_matches(word, options, n=1, cutoff=0.7) + part
    listed = ", ".join(options)
    clauses = [f"did you mean {close[0]}?"] if close else []
    clauses += [f"allowed: {listed}"] if 0 < len(listed) <= MOST_LISTED else []
    clause = " ".join(clauses) or otherwise
    return f"; {clause}" if clause else ""
