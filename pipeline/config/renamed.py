"""What recipes called things before, and recipes of run folders that earlier code wrote in today's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

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


def rename_old(tree: Block) -> None:
    """Gives entries of a run folder's recipe their names of today, and flat keys that have moved their blocks."""
    flat = {key: tree.entries.pop(key) for key in MOVED if key in tree.entries}
    if flat and "objective" not in tree.entries:
        tree.entries["objective"] = block = _block(flat, OBJECTIVE, tree)
        block.entries["name"] = Scalar("next_token", tree.where)
    if flat and "optimizer" not in tree.entries:
        changes: dict[str, Node] = {}
        if _text_of(flat.get("grokfast")) not in (None, "off", "false"):
            changes["grokfast"] = _block(flat, GROKFAST, tree)
        if _text_of(flat.get("orthogonal_gradient")) == "true":
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


def _block(flat: Mapping[str, Node], keys: Mapping[str, str], tree: Block) -> Block:
    """Return the values of flat keys under their names in a block."""
    return Block({name: flat[key] for name, key in keys.items() if key in flat}, tree.where)


def _text_of(node: Node | None) -> str | None:
    return node.text if isinstance(node, Scalar) else None
