"""Recipes of run folders that earlier code wrote, in today's words."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.config.registry import RENAMED, ROOMS
from pipeline.config.yaml_nodes import Block, Scalar


def renamed_nodes(tree: Block) -> None:
    """Give entries of a recipe as it was read their names of today."""
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
    found = dict(recipe)
    for room, new in RENAMED.items():
        one, many = found.get(ROOMS[room]), found.get(room)
        if isinstance(one, dict) and one.get("name") in new:
            found[ROOMS[room]] = {**one, "name": new[one["name"]]}
        if isinstance(many, dict):
            found[room] = {new.get(name, name): value for name, value in many.items()}
    return found
