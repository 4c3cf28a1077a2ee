"""The folder is the registry: a name in a recipe is a file in one of some rooms.

`corpus: {name: composition}` means the class `Composition` in `pipeline/corpora/composition.py`. To add a corpus, an
architecture, a callback or an analysis, add one file; nothing else is edited. A room's file imports torch and
transformers inside its functions, so that reading a recipe needs neither.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path

from pipeline.config.fields import Parameters
from pipeline.utils.errors import ParameterError
from pipeline.utils.suggest import did_you_mean

# Room -> what one of its files is called in messages.
ROOMS = {
    "corpora": "corpus", "models": "model", "objectives": "objective", "optim": "optimizer", "collators": "collator",
    "callbacks": "callback", "circuits": "analysis", "claims": "claim",
}  # fmt: skip
# Blocks of a recipe that have one kind each, and what reads them. A name, as `config` knows no room above it.
BLOCKS = {
    "peft": "pipeline.models.adapters:Peft",
    "replay": "pipeline.data.replay:Replay",
    "checkpoints": "pipeline.runs.checkpoints:KeepSchedule",
    "paper": "pipeline.config.options:Paper",
}
# What entries were called before; a recipe is told the new name, and one that a run folder holds is read with it.
RENAMED = {
    "models": {"continued": "pretrained"},
    "callbacks": {"progress": "console", "finite": "nonfinite", "stop": "early_stopping"},
    "circuits": {"progress": "fourier"},
}


def names(room: str) -> list[str]:
    """The entries of a room, sorted: the files that hold a class of their own name, `pair_sums.py` a `PairSums`."""
    files = sorted((Path(__file__).parents[1] / room).glob("[a-z]*.py"))
    return [file.stem for file in files if f"\nclass {class_name(file.stem)}(" in file.read_text(encoding="utf-8")]


def class_name(name: str) -> str:
    """Return the class of an entry: `PairSums` in `pair_sums.py`."""
    return "".join(part.capitalize() for part in name.split("_"))


def block(key: str) -> type[Parameters]:
    """Return the class that reads a block of a recipe."""
    module, _, name = BLOCKS[key].partition(":")
    kind: type[Parameters] = getattr(importlib.import_module(module), name)
    return kind


def load(room: str, name: str, key: str) -> type[Parameters]:
    """Return the class behind `name` in `room`; `key` says where the name was given.

    Raises:
        ParameterError: when the room has no such file.
    """
    if name in RENAMED.get(room, {}):
        raise ParameterError(key, f"{name} is called {RENAMED[room][name]} now")
    if name not in names(room):
        raise ParameterError(key, f"there is no {ROOMS[room]} {name!r}{did_you_mean(name, names(room), most=math.inf)}")
    module = importlib.import_module(f"pipeline.{room}.{name}")
    kind: type[Parameters] = getattr(module, class_name(name))
    return kind


def room_name(entry: Parameters) -> str:
    """Return the name under which a recipe finds an entry of a room: its file's."""
    return type(entry).__module__.rpartition(".")[2]
