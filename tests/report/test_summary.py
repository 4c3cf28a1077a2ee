"""The story of a run says what was measured, in every state a run can be in, and no more."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.summary import method, outcome, story
from pipeline.runs.folder import RunFolder
from pipeline.utils.format import amount, duration, listed, share, size, times
from tests.written_runs import COMPOSITION, write_run

STEPS = [0, 50, 100, 200, 400, 1000, 2000]


def course(fit: int | None, grok: int | None) -> dict[int, list[float]]:
    """Exact matches of train and id that reach 1 at these steps, never where None."""
    return {step: [float(at is not None and step >= at) or 0.25 for at in (fit, grok)] for step in STEPS}


LAST = "At the end exact match is {} on `train` and {} on `id`."
STATES: dict[str, tuple[dict[int, list[float]], dict[str, Any], str, str]] = {
    "grokked": (
        course(100, 1000),
        {"final": [1, 1]},
        "groks at step 1,000",
        "It fits its training set at step 100 and generalizes at step 1,000, after 10 times as many steps. "
        "From then on `id` was at 0.99 or above in 1 of 1 evaluation. " + LAST.format("1.000", "1.000"),
    ),
    "fitted": (
        course(100, None),
        {"final": [1, 0.25]},
        "fits, and has not generalized",
        "It fits its training set at step 100 and has not generalized by step 2,000. " + LAST.format("1.000", "0.250"),
    ),
    "not fitted": (
        course(None, None),
        {"final": [0.25, 0.25]},
        "has not fitted its training set",
        "It has neither fitted its training set nor generalized by step 2,000. " + LAST.format("0.250", "0.250"),
    ),
    "same evaluation": (
        course(400, 400),
        {"final": [1, 1]},
        "fits and generalizes together at step 400",
        "It fits its training set and generalizes at the same evaluation, at step 400: no gap was seen. "
        "From then on `id` was at 0.99 or above in 2 of 2 evaluations. " + LAST.format("1.000", "1.000"),
    ),
    "generalized first": (
        course(1000, 200),
        {"final": [1, 1]},
        "generalizes at step 200, before it fits",
        "It generalizes at step 200, before it fits its training set at step 1,000: no grokking was seen. "
        "From then on `id` was at 0.99 or above in 3 of 3 evaluations. " + LAST.format("1.000", "1.000"),
    ),
    "generalized without fitting": (
        course(None, 200),
        {"final": [0.98, 1]},
        "generalizes at step 200 without fitting",
        "It generalizes at step 200, and has not fitted its training set by step 2,000. "
        "From then on `id` was at 0.99 or above in 3 of 3 evaluations. " + LAST.format("0.980", "1.000"),
    ),
    "fitted before training": (
        course(0, 200),
        {"final": [1, 1]},
        "groks at step 200",
        "It fits its training set before any training (step 0) and generalizes at step 200. "
        "From then on `id` was at 0.99 or above in 3 of 3 evaluations. " + LAST.format("1.000", "1.000"),
    ),
    "lost on all rows": (
        course(100, 1000),
        {"final": [1, 0.9896]},
        "groks at step 1,000",
        "It fits its training set at step 100 and generalizes at step 1,000, after 10 times as many steps. "
        "From then on `id` was at 0.99 or above in 1 of 1 evaluation. "
        + LAST.format("1.000", "0.9896")
        + " So `id` is not at 0.99 or above.",
    ),
    "lost twice": (
        course(100, 100),
        {"final": [0.5, 0.5]},
        "fits and generalizes together at step 100",
        "It fits its training set and generalizes at the same evaluation, at step 100: no gap was seen. "
        "From then on `id` was at 0.99 or above in 4 of 4 evaluations. "
        + LAST.format("0.500", "0.500")
        + " So `train` and `id` are not at 0.99 or above.",
    ),
    "running": (
        course(100, None),
        {},
        "fits, and has not generalized so far",
        "It fits its training set at step 100 and has not generalized by step 2,000. "
        "At step 2,000, the last evaluation, exact match is 1.000 on `train` and 0.250 on `id`.",
    ),
    "running, grokked": (
        course(100, 1000),
        {},
        "groks at step 1,000 (unfinished)",
        "It fits its training set at step 100 and generalizes at step 1,000, after 10 times as many steps. "
        "From then on `id` was at 0.99 or above in 1 of 1 evaluation. "
        "At step 2,000, the last evaluation, exact match is 1.000 on `train` and 1.000 on `id`.",
    ),
    "never evaluated": (
        {},
        {"final": [0.5, 0.25], "lines": [{"step": 2000, "loss": 1.0}]},
        "not evaluated while training",
        "Its splits were not measured while it trained, so there is no curve. " + LAST.format("0.500", "0.250"),
    ),
    "just begun": ({}, {}, "not evaluated yet", "Its splits have not been measured yet."),
    "no id": (
        course(100, None),
        {"final": [1, 0.25], "splits": {"train": 2823, "ood": 100}},
        "fits, and has not generalized",
        "It fits its training set at step 100 and has not generalized by step 2,000. "
        "At the end exact match is 1.000 on `train` and 0.250 on `ood`.",
    ),
    "no id, grokked": (
        course(100, 1000),
        {"final": [1, 1], "splits": {"train": 2823, "test": 100}, "held_out": ["test"]},
        "groks at step 1,000, by test",
        "It fits its training set at step 100 and generalizes at step 1,000, after 10 times as many steps. "
        "From then on `test` was at 0.99 or above in 1 of 1 evaluation. "
        "At the end exact match is 1.000 on `train` and 1.000 on `test`.",
    ),
    "id is not held out": (
        course(100, 1000),
        {"final": [1, 1], "splits": {"train": 2823, "id": 100}, "held_out": []},
        "fits at step 100",
        "It fits its training set at step 100. Its corpus has no held-out split to generalize to. "
        "At the end exact match is 1.000 on `train`.",
    ),
    "nothing held out, not fitted": (
        course(None, 200),
        {"final": [0.25, 1], "splits": {"train": 2823, "probe": 100}, "held_out": []},
        "has not fitted its training set",
        "It has not fitted its training set by step 2,000. Its corpus has no held-out split to generalize to. "
        "At the end exact match is 0.250 on `train`.",
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_what_was_learned_is_told_as_it_was_measured(tmp_path: Path, state: str) -> None:
    evaluations, facts, title, told = STATES[state]
    run = RunFolder.read(write_run(tmp_path / "run", evaluations, **facts))
    assert outcome(run) == title
    assert story(run)[0] == told


def told(tmp_path: Path, *overrides: str, to: int = 2000, **facts: Any) -> str:
    evaluations = {step: matches for step, matches in course(100, 1000).items() if step <= to}
    return story(RunFolder.read(write_run(tmp_path / "run", evaluations, *overrides, **facts)))[1]


def test_a_finished_run_says_how_long_it_took(tmp_path: Path) -> None:
    assert told(tmp_path, final=[1, 1]) == "2,000 steps took 20 s on CPU, 2 threads."


def test_an_early_stop_says_why(tmp_path: Path) -> None:
    text = told(tmp_path, "--stop_when=grokked", "--stop_patience=2", "--max_steps=9000", final=[1, 1])
    assert text.startswith(
        "It was stopped at step 2,000 of 9,000, as `id` had stayed at 0.99 or above for 2 evaluations. "
    )


def test_a_stop_that_nothing_explains_is_not_explained(tmp_path: Path) -> None:
    text = told(tmp_path, "--stop_when=grokked", "--stop_patience=3", "--max_steps=9000", final=[1, 1])
    assert text.startswith("It was stopped at step 2,000 of 9,000. 2,000 steps took")


def test_an_unfinished_run_says_how_far_it_is(tmp_path: Path) -> None:
    assert told(tmp_path, to=400, starts=3) == (
        "The run is not finished: step 400 of 2,000 is the last that was logged. "
        "400 steps took 4.0 s on CPU, 2 threads. The run was started 3 times."
    )


def test_steps_are_counted_where_the_recipe_counts_epochs(tmp_path: Path) -> None:
    # 2,823 rows in batches of 512 are 6 updates.
    text = told(tmp_path, "--max_steps=-1", "--num_train_epochs=100.5", to=400)
    assert "step 400 of 603 is the last" in text


def test_a_run_that_was_made_longer_is_not_finished_by_its_past(tmp_path: Path) -> None:
    lines = [{"step": 2000, "final_train_exact_match": 1.0, "final_id_exact_match": 0.5}, {"step": 2050, "loss": 1.0}]
    run = RunFolder.read(write_run(tmp_path / "run", course(100, 1000), "--max_steps=9000", lines=lines))
    assert not run.finished and run.at_end("id", "exact_match") == 1.0
    assert "(unfinished)" in outcome(run)


def test_values_that_were_not_finite_are_named(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": None if step > 2010 else 1.0, "grad_norm": 1.0} for step in (2010, 2020, 2030)]
    text = told(tmp_path, lines=lines)
    assert text.endswith("Logged values that were not finite: `loss` (2, the first at step 2,020).")


def test_devices_of_all_starts_are_named(tmp_path: Path) -> None:
    run = RunFolder.read(write_run(tmp_path / "run", course(100, 1000), final=[1, 1], starts=2))
    run.starts[0].update(device="NVIDIA A100", processes=8)
    assert "took 20 s on NVIDIA A100 in 8 processes and CPU, 2 threads. The run was started twice." in story(run)[1]


def test_the_method_names_the_evaluations_before(tmp_path: Path) -> None:
    run = RunFolder.read(write_run(tmp_path / "run", course(100, 1000), final=[1, 1]))
    assert method(run) == (
        "To fit is an exact match of at least 0.99 on `train`, to generalize the same on `id`. It groks where that "
        "is delayed: at 2 times the steps to fit or later, or from an exact match below 0.5 when it fits. Steps are "
        "those of the first evaluation that shows it; those before were at 50 and 400."
    )


def test_samples_are_named_with_their_sizes(tmp_path: Path) -> None:
    evaluations = {step: [*matches, 0.0, 1.0, 1.0, 1.0] for step, matches in course(100, 1000).items()}
    options = ["--max_eval_samples=2500"]
    run = write_run(tmp_path / "run", evaluations, *options, recipe=COMPOSITION, final=[1, 1, 0, 1, 1, 1])
    assert method(RunFolder.read(run)).endswith(
        "Each evaluation looked at 2,500 of the 382,000 rows of `train`, 2,500 of the 3,000 rows of `id`, 2,500 of the "
        "3,000 rows of `train_inferred` and 2,500 of the 3,000 rows of `id_atomic`, the same ones every time; the "
        "final numbers are those of all rows, 3,000 of `train`."
    )
    run = write_run(tmp_path / "whole", evaluations, recipe=COMPOSITION)
    assert method(RunFolder.read(run)).endswith(
        "Each evaluation looked at 3,000 of the 382,000 rows of `train`, the same ones every time."
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(1.0, "1.000"), (0.0, "0.000"), (0.992, "0.992"), (0.5, "0.500"), (0.12345, "0.123")],
        *[
            (0.9998, "0.9998"),
            (0.99985, "0.9999"),
            (0.99997, "0.99997"),
            (0.0004, "0.0004"),
            (0.9896, "0.9896"),
            (0.99, "0.990"),
        ],
        *[(None, "–"), (math.nan, "not finite")],
    ],
)
def test_shares_are_not_rounded_across_what_matters(value: float | None, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.00030163, "0.000302"), (4.7608, "4.76"), (15.04, "15.0"), (1234.5, "1,234"), (2000, "2,000")],
        *[
            (3.2e-7, "3.20e-7"),
            (2.5e8, "250,000,000"),
            (None, "–"),
            (math.inf, "not finite"),
            (0.0, "0"),
            (-0.5, "-0.500"),
        ],
    ],
)
def test_amounts_have_three_digits(value: float | None, text: str) -> None:
    assert amount(value) == text


def test_durations_sizes_ratios_and_lists() -> None:
    assert [duration(s) for s in (0.04, 9.9, 37, 126, 7200, 200_000, None)] == [
        *("0.0 s", "9.9 s", "37 s", "2.1 min", "2.0 h", "2.3 days", "–"),
    ]
    assert [size(n) for n in (12, 1_500, 25_040_000, 3.2e9, 2e12)] == [
        *("12 bytes", "1.5 kB", "25.0 MB", "3.2 GB", "2.0 TB"),
    ]
    assert [times(gap) for gap in (1.0, 6.04, 9.96, 48.3, 1234.5, None)] == ["1.0", "6.0", "10", "48", "1,234", "–"]
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
