"""Another value for any key, so that tests can turn each alone and see what it changes."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal

from pipeline.config.fields import Parameters, parameters_of, within
from pipeline.utils.errors import ParameterError


def others(kind: Any, value: Any) -> Iterator[Any]:
    """Values of a type that are not `value`, the nearest first."""
    if typing.get_origin(kind) is Literal:
        yield from (other for other in typing.get_args(kind) if other != value)
    elif NoneType in typing.get_args(kind):
        inner = next(part for part in typing.get_args(kind) if part is not NoneType)
        yield from others(inner, {int: 7, float: 2.0, str: ""}[inner] if value is None else value)
    elif kind is bool:
        yield not value
    elif kind is int:
        yield from (value + 1, value - 1, value + 2, value // 2)
    elif kind is float:
        yield from (0.5 * value, 0.5 * value + 0.5, value + 1, 2 * value)
    elif typing.get_origin(kind) is tuple and value:
        yield value[:-1]
        yield value[1:]


def turned(entry: Parameters, key: str) -> Iterator[Parameters]:
    """The entry with other values of one key, those of them that it takes."""
    field = next(field for field in parameters_of(entry) if field.name == key)
    kind = typing.get_type_hints(type(entry))[key]
    for value in others(kind, getattr(entry, key)):
        if value != getattr(entry, key) and within(value, field.metadata):
            try:
                yield dataclasses.replace(entry, **{key: value})  # type: ignore[type-var]
            except ParameterError:
                continue
