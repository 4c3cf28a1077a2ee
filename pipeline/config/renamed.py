"""What recipes called things before, and recipes of run folders that earlier code wrote in today's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline.config.registry import RENAMED, ROOMS
from pipeline.config.yaml_nodes import Block, Node, Scalar

# Flat keys that have become parameters of blocks, and how they are written now.
MOVED = {
    "loss": "objective: {name: next_token, loss: stablemax}",
    "loss_tokens": "objective: {name: next_token, tokens: all}",
    "grokfast": "optimizer: {grokfast: {average: ema}}",
    "grokfast_alpha": "optimizer: {grokfast: {alpha: 0.98}}",
    "grokfast_lamb": "optimizer: {grokfast: {lamb: 2}}",
    "grokfast_window": "optimizer: {grokfast: {window: 100}}",
    "orthogonal_gradient": "optimizer: {orthogonal: {}}",
}
GROKFAST = {"average": "grokfast", "alpha": "grokfast_alpha", "lamb": "grokfast_lamb", "window": "grokfast_window"}
OBJECTIVE = {"loss": "loss", "tokens": "loss_tokens"}


def renamed_nodes(tree: Block) -> None:
    """Give entries of a recipe as it was read their names of today, and flat keys that have moved their blocks."""
    flat = {key: tree.entries.pop(key) for key in MOVED if key in tree.entries}
    if flat and "objective" not in tree.entries:
        tree.entries["objective"] = _block(flat, OBJECTIVE, tree)
    if flat and "optimizer" not in tree.entries:
        changes: dict[str, Node] = {}
        if _text(flat.get("grokfast")) not in (None, "off", "false"):
            changes["grokfast"] = _block(flat, GROKFAST, tree)
        if _text(flat.get("orthogonal_gradient")) == "true":
            changes["orthogonal"] = Block({}, tree.where)
        tree.entries["optimizer"] = Block(changes, tree.where)
    for room, new in RENAMED.items():
        one = tree.entries.get(ROOMS[room])
        name = one.entries.get("name") if isinstance(one, Block) else None
        if isinstance(one, Block) and isinstance(name, Scalar) and name.text in new:
            one.entries["name"] = dataclasses.replace(name, text=new[name.text])
        many = tree.entries.get(room)
        if isinstance(many, Block):
            entries = {new.get(name, name): node for name, node in many.entries.items()}
            tree.entries[room] = dataclasses.replace(many, entries=entries)


def renamed_values(recipe: dict[str, Any]) -> dict[str, Any]:
    """A resolved recipe, as plain values, with the names of today."""
    found = {key: value for key, value in recipe.items() if key not in MOVED}
    if len(found) < len(recipe):
        found.setdefault("objective", _values(recipe, OBJECTIVE) | {"name": "next_token"})
        is_averaged = recipe.get("grokfast") not in (None, "off", False)
        changes: dict[str, Any] = {"grokfast": _values(recipe, GROKFAST)} if is_averaged else {}
        changes |= {"orthogonal": {}} if recipe.get("orthogonal_gradient") is True else {}
        found.setdefault("optimizer", changes)
    for room, new in RENAMED.items():
        one, many = found.get(ROOMS[room]), found.get(room)
        if isinstance(one, dict) and one.get("name") in new:
            found[ROOMS[room]] = {**one, "name": new[one["name"]]}
        if isinstance(many, dict):
            found[room] = {new.get(name, name): value for name, value in many.items()}
    return found


def _block(flat: Mapping[str, Node], keys: Mapping[str, str], tree: Block) -> Block:
    """The values of flat keys under their names in a block."""
    return Block({name: flat[key] for name, key in keys.items() if key in flat}, tree.where)


def _text(node: Node | None) -> str | None:
    return node.text if isinstance(node, Scalar) else None


def _values(recipe: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return {name: recipe[key] for name, key in keys.items() if key in recipe}
