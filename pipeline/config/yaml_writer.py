"""YAML as it is written: what is read again is what was written, whatever the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.config.coerce import untyped
from pipeline.config.yaml_nodes import Scalar

HEAD = "# The resolved recipe of this run: defaults and overrides written out. Rerunning it repeats the run.\n"


class _Dumper(yaml.SafeDumper):
    """Quotes every text that would be read as something else, such as 2e-5, and those that PyYAML would damage."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    is_safe = text.isprintable() and untyped(Scalar(text, "")) == text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_safe else '"')


_Dumper.add_representer(str, _represent_text)


def dump(values: Mapping[str, Any]) -> str:
    """Returns values as a YAML document, in their order."""
    return yaml.dump(lists(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def resolved_recipe(values: Mapping[str, Any]) -> str:
    """Returns the text of recipe.yaml in a run folder."""
    return HEAD + dump(values)


def lists(value: Any) -> Any:
    """Returns tuples as lists, all the way down, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: lists(item) for key, item in value.items()}
    return [lists(item) for item in value] if isinstance(value, (list, tuple)) else value
