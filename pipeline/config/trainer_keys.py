"""The flat keys of a recipe: the fields of TrainingArguments, read from the installed transformers' source.

Importing `TrainingArguments` takes seconds, because it imports torch and half of transformers; its source is parsed in
a twentieth of one. A test holds the two equal, so that a key that transformers removes is refused by the next recipe.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.config.coerce import convert
from pipeline.config.habits import HABITS
from pipeline.config.trainer_policy import (
    BOUNDS,
    CHECKPOINTING,
    DEFAULTS,
    HELP,
    KINDS,
    NO_DEFAULT,
    REFUSED,
    REFUSED_VALUES,
    REMOVED,
)
from pipeline.config.yaml_nodes import Node, Scalar
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.suggest import did_you_mean

# What the annotations of TrainingArguments are made of, beside its enums.
TYPES: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "str": str, "list": list, "dict": dict, "tuple": tuple,
}  # fmt: skip


@dataclass(frozen=True)
class Key:
    """A flat key: its type, its default here, its help, and its bounds as in `param`."""

    kind: Any
    default: Any
    help: str
    metadata: dict[str, Any] = field(default_factory=dict)


def _syntax_tree(module: str) -> ast.Module:
    """Return the syntax tree of a transformers module, which is not imported."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.submodule_search_locations
    return ast.parse((Path(spec.submodule_search_locations[0]) / f"{module}.py").read_text(encoding="utf-8"))


def _enums(*trees: ast.Module) -> dict[str, tuple[str, ...]]:
    """Name -> values, of each class derived from ExplicitEnum."""
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    return {
        node.name: tuple(
            line.value.value
            for line in node.body
            if isinstance(line, ast.Assign)
            and isinstance(line.value, ast.Constant)
            and isinstance(line.value.value, str)
        )
        for node in classes
        if any(isinstance(base, ast.Name) and base.id == "ExplicitEnum" for base in node.bases)
    }


def _fields(tree: ast.Module) -> Iterator[tuple[str, ast.expr, dict[str, Any]]]:
    """Name, annotation, and default and metadata where they are literals, of each field of TrainingArguments."""
    arguments = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments")
    for line in arguments.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(line.value, ast.Call):
            words = {word.arg: word.value for word in line.value.keywords if word.arg}
            facts = {"default": _literal(words.get("default"))}
            metadata = words.get("metadata")
            for key, value in zip(metadata.keys, metadata.values) if isinstance(metadata, ast.Dict) else ():
                facts[_literal(key)] = _literal(value)
            yield line.target.id, line.annotation, facts


def _literal(node: ast.expr | None) -> Any:
    try:
        return node and ast.literal_eval(node)
    except ValueError:
        return None  # computed; what matters of it is in trainer_policy.py


def _kind(annotation: ast.expr, enums: dict[str, tuple[str, ...]], choices: list[str] | None) -> Any:
    """Return the type of an annotation, where an enum stands for its values (transformers writes `SomeEnum | str`)."""
    found = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    for name in found & enums.keys():
        return Literal[enums[name]]
    return Literal[tuple(choices)] | None if choices else _type(annotation)


def _type(node: ast.expr) -> Any:
    """Return the type that an annotation names; Any for one that holds a name beyond `TYPES`."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return _type(ast.parse(text, mode="eval").body)
        case ast.Name(id=name):
            return TYPES.get(name, Any)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left) | _type(right)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _type(inner) | None
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=parts)):
            return functools.reduce(operator.or_, (_type(part) for part in parts))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return Literal[ast.literal_eval(inner)]
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in ("list", "dict", "tuple"):
            inside = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return TYPES[name][tuple(_type(part) for part in inside)]
    return Any


@functools.cache
def keys() -> dict[str, Key]:
    """Return every flat key that a recipe may use, by name, in transformers' order."""
    training_args = _syntax_tree("training_args")
    enums = _enums(training_args, _syntax_tree("trainer_utils"))
    known = {}
    for name, annotation, facts in _fields(training_args):
        if name in REFUSED:
            continue
        kind = KINDS.get(name) or _kind(annotation, enums, facts.get("choices"))
        if name in REFUSED_VALUES:
            kind = Literal[tuple(choice for choice in get_args(kind) if choice not in REFUSED_VALUES[name])]
        help = HELP.get(name) or " ".join((facts.get("help") or "").split()).replace("%%", "%")
        default = None if name in NO_DEFAULT else DEFAULTS.get(name, facts["default"])
        known[name] = Key(kind, default, help, BOUNDS.get(name, {}))
    return known


@functools.cache
def trackers() -> tuple[str, ...]:
    """Return what `report_to` may name."""
    tree = _syntax_tree("integrations/integration_utils")
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTEGRATION_TO_CALLBACK"
    )
    assert isinstance(table, ast.Dict)
    return tuple(str(_literal(key)) for key in table.keys)


def refuse(key: str, others: Iterable[str]) -> ParameterError:
    """Why a flat key is not allowed: removed, decided by the pipeline, or unknown (then the closest of all keys)."""
    if key in REMOVED:
        return ParameterError(key, f"current transformers has no such key; {REMOVED[key]}")
    if key in REFUSED:
        return ParameterError(key, f"is not for recipes: {REFUSED[key]}")
    if habit := HABITS.get(key.lower().replace("-", "_")):
        meant = habit if " " in habit else f"did you mean {habit}?"
        return ParameterError(key, f"unknown key; {meant}")
    return ParameterError(key, f"unknown key{did_you_mean(key, [*others, *keys()], '--help lists all')}")


def read_value(key: str, node: Node) -> Any:
    """Return the value of a flat key; None where it says no more than leaving the key out.

    Raises:
        RecipeError: when the key does not take it.
    """
    text = node.text if isinstance(node, Scalar) else None
    reason = REFUSED_VALUES.get(key, {}).get(text or "")
    if reason:
        raise RecipeError(node.where, f"{key}: {text} is not for recipes: {reason}")
    if key == "max_steps" and text == "-1":  # transformers' way to say that epochs are counted
        return None
    return convert(node, keys()[key].kind, key, keys()[key].metadata)


def check(training: dict[str, Any]) -> None:
    """Check whether the keys fit together, as far as can be told without torch. Makes whole numbers of steps int.

    Raises:
        ParameterError: when they do not.
    """
    if "max_steps" not in training and "num_train_epochs" not in training:
        raise ParameterError("max_steps", "how long to train is missing; write max_steps or num_train_epochs")
    for key in ("eval_steps", "save_steps", "logging_steps", "warmup_steps"):
        steps = training[key]
        if steps >= 1:
            if steps != int(steps):
                raise ParameterError(key, f"{steps} is neither a whole number of steps nor a share of them below 1")
            training[key] = int(steps)
    if training["bf16"] is True and training["fp16"]:
        raise ParameterError("fp16", "is true beside bf16: true; choose one of them")
    if not training["output_dir"].strip() or not training["output_dir"].isprintable():
        raise ParameterError("output_dir", f"{training['output_dir']!r} is not the name of a folder")
    if training["lr_scheduler_type"] == "constant" and training["warmup_steps"]:
        raise ParameterError("warmup_steps", "a constant rate has none; write lr_scheduler_type: constant_with_warmup")
    if training["lr_scheduler_type"].startswith("constant") and training.get("lr_scheduler_kwargs"):
        raise ParameterError(
            "lr_scheduler_kwargs", f"{training['lr_scheduler_type']} takes none; see lr_scheduler_type"
        )
    for mapping in (training.get("optim_args") or "").replace(" ", "").split(","):
        if mapping and mapping.count("=") != 1:
            raise ParameterError("optim_args", f"{mapping!r} is not name=value; write them as text: a=1,b=2")
    for key in ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        for name in training.get(key) or ():
            if name not in CHECKPOINTING:
                raise ParameterError(key, f"unknown key {name}{did_you_mean(name, CHECKPOINTING)}")
    repository = training.get("hub_model_id")
    if training.get("push_to_hub") and not repository:
        raise ParameterError("hub_model_id", "is missing beside push_to_hub; write user/name")
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ParameterError("hub_model_id", f"{repository!r} is not user/name")
    _check_tracker_names(training.get("report_to") or "none")


def _check_tracker_names(wanted: str | list[str]) -> None:
    if wanted in ("none", "all", ["none"], ["all"]):
        return
    for tracker in [wanted] if isinstance(wanted, str) else wanted:
        if tracker in ("none", "all"):
            raise ParameterError("report_to", f"{tracker} stands alone, without other trackers")
        if tracker not in trackers():
            raise ParameterError(
                "report_to", f"unknown tracker {tracker!r}{did_you_mean(tracker, ['none', *trackers()])}"
            )
