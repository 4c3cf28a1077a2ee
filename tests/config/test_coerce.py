"""What a text means for each type, as a researcher would expect it, and what is said where it means nothing."""

from __future__ import annotations

import math
from typing import Any, Literal, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.coerce import convert, shown, untyped, words, written
from pipeline.config.fields import Parameters, parameters_of
from pipeline.config.registry import ROOMS, load, names
from pipeline.config.trainer_keys import keys
from pipeline.config.yaml_nodes import Scalar, parse
from pipeline.utils.errors import RecipeError

Steps = Literal["no", "steps"]
PAIRS = tuple[tuple[int, int | None], ...]
STEPS = int | float
COUNT = int | None
TEXT = str | None
TRACKERS = str | list[str] | None
SPACE = str | None | Literal[False]
ANYTHING = dict[str, Any]


def value_of(text: str, kind: Any, **bounds: float) -> Any:
    return convert(parse(text, "file", line_numbers=False), kind, "key", bounds)


MEANINGS: list[tuple[str, Any, Any]] = [
    ("1", int, 1),
    ("-1", int, -1),
    ("+7", int, 7),
    ("1_000", int, 1000),
    ("1e5", int, 100_000),
    ("1.5e3", int, 1500),
    ("010", int, 10),
    ("9223372036854775807", int, 2**63 - 1),
    ("2e-5", float, 2e-5),
    ("2.0E-05", float, 2e-5),
    ("1", float, 1.0),
    (".5", float, 0.5),
    ("1_000.5", float, 1000.5),
    ("true", bool, True),
    ("Yes", bool, True),
    ("on", bool, True),
    ("FALSE", bool, False),
    ("no", bool, False),
    ("off", bool, False),
    ("abc", str, "abc"),
    ("yes", str, "yes"),
    ("1e5", str, "1e5"),
    ("2026-01-01", str, "2026-01-01"),
    ("12:30:00", str, "12:30:00"),
    ("0x10", str, "0x10"),
    ("'null'", str, "null"),
    ("''", str, ""),
    ("ε → ∞", str, "ε → ∞"),
    ("|\n  two\n  lines\n", str, "two\nlines\n"),
    ("no", Steps, "no"),
    ("'no'", Steps, "no"),
    ("null", COUNT, None),
    ("~", COUNT, None),
    ("", TEXT, None),
    ("'~'", TEXT, "~"),
    ("3", COUNT, 3),
    ("5", STEPS, 5),
    ("0.5", STEPS, 0.5),
    ("1e3", STEPS, 1000),
    ("none", TRACKERS, "none"),
    ("[wandb, tensorboard]", TRACKERS, ["wandb", "tensorboard"]),
    ("auto", Literal["auto"] | bool, "auto"),
    ("yes", Literal["auto"] | bool, True),
    ("false", SPACE, False),
    ("'false'", SPACE, "false"),
    ("[[10, 100], [1e3, null]]", PAIRS, ((10, 100), (1000, None))),
    ("[]", PAIRS, ()),
    ("[1, 2]", list[int], [1, 2]),
    ("{a: 1, b: '2'}", dict[str, str], {"a": "1", "b": "2"}),
    ("{a: 1, b: 2e-5, c: '3', f: 1e3}", ANYTHING, {"a": 1, "b": 2e-5, "c": "3", "f": 1e3}),
    ("{d: yes, e: [x, null], g: {h: -1}}", ANYTHING, {"d": True, "e": ["x", None], "g": {"h": -1}}),
    ("{}", dict | str | None, {}),
    ("zero2.json", dict | str | None, "zero2.json"),
]


@pytest.mark.parametrize(("text", "kind", "value"), MEANINGS)
def test_a_text_means_what_its_type_says(text: str, kind: Any, value: Any) -> None:
    found = value_of(text, kind)
    assert found == value and type(found) is type(value)


COMPLAINTS: list[tuple[str, Any, dict[str, float], str]] = [
    ("fast", float, {"gt": 0}, "key: 'fast' is not a number > 0"),
    ("-1", float, {"gt": 0}, "key: -1 is not a number > 0"),
    ("", float, {"gt": 0}, "key: has no value; write a number > 0"),
    ("''", float, {"gt": 0}, "key: has no value; write a number > 0"),
    ("nan", float, {"gt": 0}, "key: 'nan' is not finite; write a number > 0"),
    ("-.inf", float, {}, "key: -.inf is not finite; write a number"),
    ("1e400", float, {}, "key: 1e400 is not a number"),
    ("0x10", float, {}, "key: 0x10 is not a number"),
    ("1:30", float, {}, "key: 1:30 is not a number"),
    ("'2e-5'", float, {}, "key: '2e-5' is a text; write it without quotes"),
    ("[1, 2]", float, {}, "key: [1, 2] is not a number"),
    ("{a: [b, 1]}", float, {}, "key: {a: ['b', 1]} is not a number"),
    ("1.5", int, {"ge": 0, "lt": 2**32}, "key: 1.5 is not a whole number >= 0 and < 4294967296"),
    ("1.0", int, {}, "key: 1.0 is not a whole number"),
    ("1e-1", int, {}, "key: 1e-1 is not a whole number"),
    ("1__0", int, {}, "key: 1__0 is not a whole number"),
    ("9223372036854775808", int, {}, "key: 9223372036854775808 is not a whole number"),
    ("1e30", int, {}, "key: 1e30 is not a whole number"),
    ("9" * 5000, int, {}, f"key: {'9' * 56} ... is not a whole number"),
    ("true", int, {}, "key: true is not a whole number"),
    ("2026-01-01", int, {}, "key: 2026-01-01 is not a whole number"),
    ("maybe", bool, {}, "key: 'maybe' is not true or false"),
    ("1", bool, {}, "key: 1 is not true or false"),
    ("'yes'", bool, {}, "key: 'yes' is a text; write it without quotes"),
    ("", str, {}, "key: has no value; write text"),
    ("null", str, {}, "key: null is not text"),
    ("[a]", str, {}, "key: ['a'] is not text"),
    ('"\\ud800"', str, {}, "key: '\\ud800' is not text"),
    ("step", Steps, {}, "key: 'step' is unknown; did you mean steps? allowed: no, steps"),
    ("false", Steps, {}, "key: false is unknown; allowed: no, steps"),
    ("zzz", Steps | None, {}, "key: 'zzz' is unknown; allowed: no, steps"),
    ("zzz", Literal[tuple(f"choice_{i}" for i in range(50))], {}, "key: 'zzz' is unknown; --help key lists all"),
    ("0", COUNT, {"ge": 1}, "key: 0 is not a whole number >= 1 or null"),
    ("x", STEPS, {"gt": 0}, "key: 'x' is not a number > 0"),
    ("{a: 1}", TRACKERS, {}, "key: {a: 1} is not text, a list of text or null"),
    ("maybe", Literal["auto"] | bool, {}, "key: 'maybe' is not auto, true or false"),
    ("100", PAIRS, {}, "key: 100 is not a list of [whole number, whole number or null]"),
    ("[100, null]", PAIRS, {}, "key: [100, null] is not a list of [whole number, whole number or null]"),
    ("[[1]]", PAIRS, {}, "key: [[1]] is not a list of [whole number, whole number or null]"),
    ("[1, a]", list[int], {}, "key: [1, 'a'] is not a list of a whole number"),
    ("{a: [1]}", dict[str, str], {}, "key: {a: [1]} is not a block whose values are text"),
    ("5", ANYTHING, {}, "key: 5 is not a block"),
]


@pytest.mark.parametrize(("text", "kind", "bounds", "message"), COMPLAINTS)
def test_a_text_that_means_nothing_is_refused(text: str, kind: Any, bounds: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        value_of(text, kind, **bounds)
    assert str(caught.value) == f"file: {message}"


def test_a_key_alone_is_true_or_has_no_value() -> None:
    alone = Scalar(None, "command line")
    assert convert(alone, bool, "key") is True and convert(alone, Literal["auto"] | bool, "key") is True
    for kind in (int, float, str, Steps, TEXT):
        with pytest.raises(RecipeError, match=r"^command line: key: has no value; write "):
            convert(alone, kind, "key")


def test_a_list_that_was_meant_says_why_it_is_none() -> None:
    with pytest.raises(RecipeError, match=r"key: '\[1, 2' is not a list of a whole number: is not YAML: a list is not"):
        convert(Scalar("[1, 2", "file", note="is not YAML: a list is not closed with ]"), list[int], "key")


def all_kinds() -> list[tuple[str, Any, Any]]:
    """Every type that a recipe can fill, with its bounds."""
    from pipeline.config.recipe import Options, Paper
    from pipeline.runs.checkpoints import KeepSchedule

    found = [(name, key.kind, key.metadata) for name, key in keys().items()]
    kinds: list[type[Parameters]] = [Options, Paper, KeepSchedule]
    kinds += [load(room, name, "") for room in ROOMS for name in names(room)]
    for kind in kinds:
        types = get_type_hints(kind)
        found += [(field.name, types[field.name], field.metadata) for field in parameters_of(kind)]
    return found


KINDS = all_kinds()
numbers = st.one_of(st.integers(), st.floats(), st.integers(-(10**400), 10**400)).map(str)
scalars = st.builds(
    Scalar,
    st.one_of(
        st.text(), numbers, st.sampled_from(["", "~", "null", "yes", "no", "auto", "steps", "1e9999", "1_0", "٣", "½"])
    ),
    st.just("file"),
    st.booleans(),
)


@given(scalars, st.sampled_from(KINDS))
def test_any_scalar_is_a_value_within_bounds_or_one_line(node: Scalar, declared: tuple[str, Any, Any]) -> None:
    name, kind, bounds = declared
    try:
        value = convert(node, kind, name, bounds)
    except RecipeError as error:
        assert str(error).startswith(f"file: {name}: ") and len(str(error).splitlines()) == 1 and len(str(error)) < 500
        return
    assert value is None or isinstance(value, (bool, int, float, str))
    if isinstance(value, float):
        assert math.isfinite(value)
    # What a resolved recipe would have is read as the same value.
    again = Scalar(node.text if isinstance(value, str) else written(value), "file", quoted=isinstance(value, str))
    assert convert(again, kind, name, bounds) == value


@given(
    st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())
)
def test_plain_recognises_what_written_writes(value: Any) -> None:
    found = untyped(Scalar(written(value), "file"))
    assert found == value and type(found) is type(value)


def test_words_and_shown() -> None:
    assert written([True, None, [1, 2.5], "a"]) == "[true, null, [1, 2.5], a]"
    assert words(PAIRS) == "a list of [whole number, whole number or null]"
    assert words(COUNT, {"ge": 1}) == "a whole number >= 1 or null"
    assert words(Any) == "a value"
    assert shown(parse("a: " + "b" * 99, "file")) == "{a: '" + "b" * 51 + " ..."
