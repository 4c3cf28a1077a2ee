"""The blocks of a recipe, read into the entries of the rooms that they name."""

from __future__ import annotations

import math
from typing import Any

from pipeline.config.coerce import convert, fill, shown
from pipeline.config.registry import BLOCKS, ROOMS, block, load, names
from pipeline.config.yaml_nodes import Block, Scalar
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.suggest import did_you_mean

KEYS = (
    "corpus",
    "model",
    "objective",
    "optimizer",
    "collator",
    *BLOCKS,
    "callbacks",
    "circuits",
)  # that have blocks as their values


def block_of(tree: Block, key: str, form: str, prefix: str = "") -> Block:
    """Return the block under a key, empty where there is none; `form` shows how one is written."""
    node = tree.entries.get(key, Block({}, tree.where))
    if isinstance(node, Scalar) and node.is_null:
        return Block({}, node.where)
    if not isinstance(node, Block):
        what = "has no value" if node.text is None and isinstance(node, Scalar) else f"{shown(node)} is not a block"
        raise RecipeError(node.where, f"{prefix}{key}: {what}; write {key}: {form}")
    return node


def filled(key: str, tree: Block) -> Any:
    """Return a block that has one kind."""
    return fill(block(key), block_of(tree, key, "{key: value}"), key)


def entry(room: str, tree: Block, default: str | None = None) -> Any:
    """Return the corpus, the model or the objective."""
    key = ROOMS[room]
    entries = dict(block_of(tree, key, "{name: NAME}").entries)
    if "name" not in entries and ("model_name_or_path" in entries or "recipe" in entries):
        name = "pretrained"
    elif "name" not in entries and default:
        name = default
    elif "name" not in entries:
        allowed = did_you_mean("", names(room), most=math.inf)
        raise ParameterError(key, f"has no name; write {key}: {{name: NAME}}{allowed}")
    else:
        name = convert(entries.pop("name"), str, f"{key}.name")
    return fill(load(room, name, f"{key}.name"), Block(entries, tree.where), key, name)


def entries(room: str, key: str, tree: Block) -> dict[str, Any]:
    """Return the callbacks, the analyses, or what changes the optimizer or the prompts."""
    given = block_of(tree, key, "{NAME: {}}")
    found = {}
    for name in given.entries:
        kind = load(room, name, f"{key}.{name}")
        found[name] = fill(kind, block_of(given, name, "{}", f"{key}."), f"{key}.{name}", name)
    return found
