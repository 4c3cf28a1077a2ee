"""The folder is the registry, and a wrong name meets the closest right one."""

from __future__ import annotations

import pytest

from pipeline.config.fields import Parameters
from pipeline.config.registry import ROOMS, load, names, room_name
from pipeline.utils.errors import ParameterError
from pipeline.utils.suggest import did_you_mean

ENTRIES = [(room, name) for room in ROOMS for name in names(room)]


@pytest.mark.parametrize(("room", "name"), ENTRIES)
def test_every_file_of_a_room_is_an_entry_that_can_be_loaded(room: str, name: str) -> None:
    kind = load(room, name, "key")
    assert issubclass(kind, Parameters)
    assert kind.__module__ == f"pipeline.{room}.{name}"
    # The help shows it; dataclass writes one itself where there is none.
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")


def test_helpers_are_no_entries() -> None:
    assert {"group", "composition"} <= set(names("corpora")) and "base" not in names("corpora")
    assert "gpt2" in names("models") and not any(name.startswith("modeling_") for name in names("models"))
    assert not any(name.startswith("_") for _, name in ENTRIES)


def test_the_name_of_an_instance_is_its_file() -> None:
    assert room_name(load("callbacks", "weight_norm", "")()) == "weight_norm"


@pytest.mark.parametrize("name", ["grup", "", "base", "_x", "../run", "group.py", "Group"])
def test_a_wrong_name_is_refused_with_the_right_ones(name: str) -> None:
    with pytest.raises(ParameterError, match=r"^corpus\.name: there is no corpus .*allowed: .*group") as caught:
        load("corpora", name, "corpus.name")
    assert ("did you mean group?" in str(caught.value)) == (name in ("grup", "group.py", "Group"))


@pytest.mark.parametrize(
    ("word", "options", "clause"),
    [
        ("ratoi", ["ratio", "seed"], "; did you mean ratio? allowed: ratio, seed"),
        ("zzz", ["ratio", "seed"], "; allowed: ratio, seed"),
        ("adamw", ["grokadamw", "adamw_torch"], "; did you mean adamw_torch? allowed: grokadamw, adamw_torch"),
        ("epoch", ["num_train_epochs", "other"], "; did you mean num_train_epochs? allowed: num_train_epochs, other"),
        ("GPT-2", ["gpt2"], "; did you mean gpt2? allowed: gpt2"),
        ("a", ["ab", "ac"], "; allowed: ab, ac"),
        ("x", [], ""),
        ("seeed", ["seed", "x" * 300], "; did you mean seed?"),
        ("zzz", ["seed", "x" * 300], "; see there"),
    ],
)
def test_choose(word: str, options: list[str], clause: str) -> None:
    assert did_you_mean(word, options, "see there" if len(str(options)) > 300 else "") == clause
