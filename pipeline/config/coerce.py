"""Nodes to values: what a text means once the type of its parameter is known, and what to say when it means nothing."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

from pipeline.config.fields import Parameters, allowed, parameters_of, within
from pipeline.config.yaml_nodes import Block, Items, Node, Scalar
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.suggest import did_you_mean

BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WHOLE = re.compile(r"[-+]?\d[\d_]*")
LARGEST = 2**63  # a whole number must fit into 64 bits
SHOWN = 60  # characters of a value in a message

P = TypeVar("P", bound=Parameters)
NO_BOUNDS: Mapping[str, Any] = types.MappingProxyType({})


def convert(node: Node, kind: Any, key: str, metadata: Mapping[str, Any] = NO_BOUNDS) -> Any:
    """Return the node's value as type `kind`, within the bounds of `metadata` (see `param`).

    Raises:
        RecipeError: when it is not of that type or out of bounds.
    """
    wanted = words(kind, metadata)
    try:
        value = _convert(node, kind)
    except ValueError:
        raise RecipeError(node.where, f"{key}: {_complaint(node, kind, key, wanted)}") from None
    if not within(value, metadata):
        raise RecipeError(node.where, f"{key}: {shown(node)} is not {wanted}")
    return value


def fill(kind: type[P], block: Block, inside: str = "", owner: str = "") -> P:
    """The parameters `kind` with the values of a block; `inside` is its dotted key, `owner` what its keys belong to.

    Raises:
        RecipeError: when a value is not of its parameter's type or out of its bounds.
        ParameterError: when there is no such parameter, or the values do not go together.
    """
    fields = {field.name: field for field in parameters_of(kind)}
    types = typing.get_type_hints(kind)
    prefix = f"{inside}." if inside else ""
    values = {}
    for key, node in block.entries.items():
        if key not in fields:
            raise ParameterError(f"{prefix}{key}", f"{owner or inside} has no such key{did_you_mean(key, fields)}")
        values[key] = convert(node, types[key], f"{prefix}{key}", fields[key].metadata)
    try:
        return kind(**values)
    except ParameterError as error:
        raise error.inside(inside) if inside else error from None


def untyped(node: Node) -> Any:
    """Return a node as Python values, where no type is known: null, booleans and numbers are known by their look."""
    if isinstance(node, Block):
        return {key: untyped(value) for key, value in node.entries.items()}
    if isinstance(node, Items):
        return [untyped(item) for item in node.items]
    for kind in (type(None), bool, int, float):
        # 1e3 is a number like 1.5e3, and whole only where a parameter asks for a whole number.
        if kind is int and not WHOLE.fullmatch((node.text or "").strip()):
            continue
        try:
            return _scalar(node, kind)
        except ValueError:
            continue
    return node.text


def _convert(node: Node, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return untyped(node)
    if origin in (Union, types.UnionType):
        # Text would take anything, so it is tried last; null first.
        for option in sorted(arguments, key=lambda option: (option is str, option is not type(None))):
            try:
                return _convert(node, option)
            except ValueError:
                continue
        raise ValueError
    if origin is Literal:
        for choice in arguments:
            if choice == (node.text if isinstance(choice, str) else untyped(node)):
                return choice
        raise ValueError
    if origin in (list, tuple):
        return _convert_items(node, origin, arguments)
    if origin is dict or kind is dict:
        if not isinstance(node, Block):
            raise ValueError
        return {name: _convert(value, arguments[1] if arguments else Any) for name, value in node.entries.items()}
    return _as_text(node) if kind is str else _scalar(node, kind)


def _convert_items(node: Node, kind: type, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(node, Items):
        raise ValueError
    if kind is list or arguments[-1] is ...:
        return kind(_convert(item, arguments[0]) for item in node.items)
    if len(arguments) != len(node.items):
        raise ValueError
    return tuple(_convert(item, argument) for item, argument in zip(node.items, arguments))


def _as_text(node: Node) -> str:
    if node.text is None or (isinstance(node, Scalar) and node.is_null):
        raise ValueError
    node.text.encode()  # a ValueError on half a character, which no file can hold
    return node.text


def _scalar(node: Node, kind: Any) -> Any:
    """Null, a boolean or a number."""
    if not isinstance(node, Scalar) or node.quoted:
        raise ValueError
    if kind is type(None) and node.is_null:
        return None
    text = "true" if node.text is None else node.text.strip().lower()
    if kind is bool and text in BOOLS:
        return BOOLS[text]
    if kind is int:
        return _whole_number(text)
    if kind is float and math.isfinite(value := float(text)):
        return value
    raise ValueError


def _whole_number(text: str) -> int:
    """1_000 and 1e3 are whole numbers to whoever writes them; 1.0 is not."""
    number = int(text) if WHOLE.fullmatch(text) else float(text) if "e" in text else math.nan
    if not abs(number) < LARGEST or number != int(number):
        raise ValueError
    return int(number)


def _complaint(node: Node, kind: Any, key: str, wanted: str) -> str:
    """Return why a node is not what is wanted."""
    if not isinstance(node, Scalar):
        return f"{shown(node)} is not {wanted}"
    text = (node.text or "").strip()
    if not text:
        return f"has no value; write {wanted}"
    names = _choices(kind)
    if names:
        return f"{shown(node)} is unknown{did_you_mean(text, names, f'--help {key} lists all')}"
    if node.quoted and not isinstance(untyped(Scalar(text, node.where)), str):
        return f"{shown(node)} is a text; write it without quotes"
    if text.strip("+-.").lower() in ("nan", "inf", "infinity"):
        return f"{shown(node)} is not finite; write {wanted}"
    return f"{shown(node)} is not {wanted}" + (f": {node.note}" if node.note else "")


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the names that a parameter takes, where it takes nothing else but null."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    kinds = [option for option in options if option is not type(None)]
    return typing.get_args(kinds[0]) if len(kinds) == 1 and typing.get_origin(kinds[0]) is Literal else ()


def shown(node: Node) -> str:
    """Return a node as the user wrote it, for a message; a long one is cut short."""
    text = _shown_whole(node)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def _shown_whole(node: Node) -> str:
    if isinstance(node, Items):
        return node.text or f"[{', '.join(map(_shown_whole, node.items))}]"
    if isinstance(node, Block):
        return node.text or f"{{{', '.join(f'{key}: {_shown_whole(value)}' for key, value in node.entries.items())}}}"
    text = node.text or ""
    looks_like_number = not node.quoted and text[:1] in "+-.0123456789"
    return text if looks_like_number or not isinstance(untyped(node), str) else repr(text)


def written(value: Any) -> str:
    """Return a value as a recipe would have it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _alternatives(kind: Any) -> list[str]:
    """Return the alternatives of a type, in words."""
    if typing.get_origin(kind) is Literal:
        return [written(choice) for choice in typing.get_args(kind)]
    return ["true", "false"] if kind is bool else [words(kind)]


def _either(parts: Iterable[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} or {last}" if most else last


def words(kind: Any, metadata: Mapping[str, Any] = NO_BOUNDS) -> str:
    """Return a type and its bounds in words: `a whole number >= 1`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None) and not (kind is int and float in arguments)]
        *most, last = (part for kind in kinds for part in _alternatives(kind))
        bounded = f"{last} {allowed(metadata)}".rstrip()
        return _either([*most, bounded, *["null"] * (type(None) in arguments)])
    if origin is Literal:
        return _either(_alternatives(kind))
    if origin is list or (origin is tuple and arguments[-1] is ...):
        return f"a list of {words(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(words(argument).removeprefix('a ') for argument in arguments)}]"
    if origin is dict and arguments[1] is not Any:
        return f"a block whose values are {words(arguments[1])}"
    simple = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a block"}
    return f"{simple.get(origin or kind, 'a value')} {allowed(metadata)}".rstrip()
