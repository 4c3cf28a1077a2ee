"""Programs against Python, which runs them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pipeline.corpora.store import build
from pipeline.corpora.toy_programs import ToyPrograms
from pipeline.utils.errors import ParameterError

PARAMETERS = {"variables": 3, "modulus": 5, "fewest_lines": 1, "most_lines": 4, "train_rows": 1500, "id_rows": 200}


def test_python_gets_the_values_that_programs_show() -> None:
    stored = build(ToyPrograms(**PARAMETERS))
    count, operands = dict.fromkeys(range(1, 5), 0), {"number": 0, "variable": 0}
    operations: dict[str, int] = {}
    for split, size in (("train", 1500), ("id", 200)):
        rows = [row for block in stored.blocks(split) for row in np.hstack([block.prompts, block.answers])]
        assert len(rows) == size
        for row in rows:
            text = " ".join(stored.tokens[token] for token in row)
            *lines, last = text.split(" ; ")
            assert [re.fullmatch(r"([a-c]) = [0-4]", line)[1] for line in lines[:3]] == ["a", "b", "c"]
            state: dict[str, int] = {}
            for line in [*lines, last]:
                command, _, shown = line.partition(" # ")
                exec(command, {}, state)
                name = command[0]
                state[name] %= 5
                if shown:
                    first, operation, second = re.fullmatch(
                        r"[a-c] = ([a-c]|[0-4]) ([+*-]) ([a-c]|[0-4])", command
                    ).groups()
                    operations[operation] = operations.get(operation, 0) + 1
                    for operand in (first, second):
                        operands["number" if operand.isdigit() else "variable"] += 1
                    assert state[name] == int(shown)
            assert shown == text[-1]
            count[len(lines) - 2] += 1
    assert min(count.values()) > 300  # 425 of each are expected
    assert operands["number"] / sum(operands.values()) == pytest.approx(0.25, abs=0.02)
    assert min(operations.values()) > 0.9 * max(operations.values())


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ParameterError, match="fewest_lines: 5 is more than most_lines, 4"):
        ToyPrograms(**{**PARAMETERS, "fewest_lines": 5})
    few = {"variables": 2, "modulus": 2, "most_lines": 1, "fewest_lines": 1}
    with pytest.raises(ParameterError, match="train_rows: 1,700 different rows are asked for, and there are hardly"):
        build(ToyPrograms(**{**PARAMETERS, **few}))
