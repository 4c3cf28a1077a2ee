"""What every corpus promises, proved for each file of the room: add a corpus, and it is covered here."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.registry import load, names, room_name
from pipeline.corpora import base
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.promises import prove, prove_near
from tests.tiny import ROOT

CORPORA = names("corpora")


@pytest.mark.parametrize("name", CORPORA)
def test_a_tiny_one_and_the_default_keep_the_contract(name: str, tmp_path: Path) -> None:
    kind: Any = load("corpora", name, "corpus")
    tiny = build(kind.tiny(tmp_path))
    assert room_name(tiny.corpus) == name and sum(tiny.sizes.values()) < 20_000
    prove(tiny)
    with contextlib.suppress(ParameterError):  # one that has to be told where its files are
        prove(build(kind()))


@pytest.mark.parametrize("name", CORPORA)
def test_random_parameters_keep_the_contract_or_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    kind: Any = load("corpora", name, "corpus")
    prove_near(kind.tiny(tmp_path))


@pytest.mark.parametrize("name", CORPORA)
def test_no_key_has_the_name_of_what_a_protocol_asks(name: str) -> None:
    """A value of that name would make a corpus one that can do it, until it is called."""
    kind: Any = load("corpora", name, "corpus")
    for protocol in (each for each in vars(base).values() if getattr(each, "_is_protocol", False)):
        asked = {key: member for key, member in vars(protocol).items() if not key.startswith("_")}
        if all(hasattr(kind, key) for key in asked):
            methods = [key for key, member in asked.items() if callable(member)]
            assert all(callable(getattr(kind, key)) for key in methods), protocol.__name__


def test_the_room_needs_no_torch() -> None:
    modules = [f"pipeline.corpora.{name}" for name in (*CORPORA, "__main__")] + [
        "pipeline.corpora.store",
        "pipeline.circuits._counterfactuals",
    ]
    script = f"import sys, {', '.join(modules)}; print({{'torch', 'transformers', 'datasets'}} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
