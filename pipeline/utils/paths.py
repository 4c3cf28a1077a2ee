"""Paths as users write them: with ~ and environment variables, which a shell does not expand inside of a recipe."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.utils.errors import ParameterError

LONGEST_NAME = 180  # bytes of a run's folder; a file system takes 255, and a log's name is longer
VARIABLE = re.compile(r"\$(?:(\w+)|\{([^{}]*)\})")


def expanded(text: str | Path, key: str) -> Path:
    """Return the path that a text means, with its ~ and its environment variables replaced.

    Raises:
        ParameterError: when a variable is not set, or nobody has the home that is named; `key` says of what.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2] or ""
        if not os.environ.get(name):
            raise ParameterError(key, f"{text}: the environment variable {name or match[0]} is not set")
        return os.environ[name]

    path = VARIABLE.sub(value, str(text))
    found = os.path.expanduser(path)
    if path.startswith("~") and found == path:
        raise ParameterError(key, f"{text}: nobody here has the home {path.split('/')[0]}")
    return Path(found)


def expand_arguments(chosen: argparse.Namespace, *names: str) -> None:
    """Expands the paths among the arguments of a command, where they are given.

    Raises:
        ParameterError: as `expanded`.
    """
    for name in names:
        value = getattr(chosen, name)
        if isinstance(value, list):
            setattr(chosen, name, [expanded(path, name) for path in value])
        elif value is not None:
            path = expanded(value, f"--{name}")
            setattr(chosen, name, str(path) if isinstance(value, str) else path)


def obstacle(path: Path) -> str | None:
    """Return why a folder cannot be made or used at `path`: a file or a dangling link in its place or above it."""
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            return f"{part} is a link to {os.readlink(part)}, which is not there"
        if part.exists():
            return None if part.is_dir() else f"{part} is a file, not a folder"
    return None


def folder_name(values: Mapping[str, str]) -> str:
    """Return the name of a run's folder, key=value by key=value.

    What a path cannot hold, or would mean something else in it, becomes _, with a digest that tells two such values
    from each other.
    """
    name = ",".join(f"{key}={value}" for key, value in values.items())
    safe = "".join(sign if sign.isprintable() and sign not in "/$%\\" else "_" for sign in name)
    if safe == name.replace("/", "_") and len(safe.encode()) <= LONGEST_NAME:
        return safe
    while len(safe.encode()) > LONGEST_NAME:
        safe = safe[:-1]
    return f"{safe}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}"


def is_path(name: str) -> bool:
    """Return whether a model's name can be none on the Hub: it begins as a path does, or has more than one slash."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1
