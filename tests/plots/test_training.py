"""Figures: curves and marks lie where the numbers say, words never collide, axes do not mislead."""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.plots import training as plots
from pipeline.plots.axes import StepScale
from pipeline.plots.style import HUES, png, svg
from pipeline.runs.grokking import GrokTracker, match_key
from pipeline.runs.metrics import Series

STEPS = [0, 1, 2, 4, 8, 16, 32, 64, *range(100, 2001, 100)]
SPLITS = ["train", "id", "ood", "test_hard", "train_inferred", "id_atomic", "ood_atomic", "another_probe"]


def series(steps: Iterable[int], values: Iterable[float]) -> Series:
    return Series(array("q", steps), array("d", values))


def rising(at: int, top: float = 1.0) -> list[float]:
    """Exact matches that grow up to a step and then stay."""
    return [top if step >= at else 0.5 * step / at for step in STEPS]


def draw_curve(matches: Mapping[str, Series], held_out: Sequence[str] = ("id", "ood", "test_hard")) -> Figure:
    columns = {match_key(split): found for split, found in matches.items()}
    tracker = GrokTracker()
    for step, train in zip(*matches["train"]):
        tracker.update(step, {match_key("train"): train, match_key("id"): dict(zip(*matches["id"]))[step]})
    scale = StepScale.over(max(found.steps[-1] for found in matches.values()), matches.values())
    return plots.grokking_curve(columns, plots.split_pens(list(matches), held_out), tracker, scale)


def two(fit: int, grok: int) -> dict[str, Series]:
    return {"train": series(STEPS, rising(fit)), "id": series(STEPS, rising(grok))}


NAN = rising(200)[:-4] + [math.nan] * 3 + [1.0]
CASES: dict[str, dict[str, Series]] = {
    "apart": two(200, 1500),
    "close": two(1000, 1100),
    "together": {
        "train": series(STEPS, rising(1000)),
        "id": series(STEPS, [1.0 if step >= 1700 else 0.6 * step / 1000 for step in STEPS]),
    },
    "equal": two(300, 300),
    "reversed": two(1500, 200),
    "not fitted": {"train": series(STEPS, rising(200, 0.9)), "id": series(STEPS, rising(300))},
    "nothing yet": {"train": series(STEPS, rising(200, 0.1)), "id": series(STEPS, rising(300, 0.0))},
    "from the start": two(0, 1),
    "generalized first, at the start": two(1, 0),
    "at step 1": two(1, 2),
    "at the end": two(1900, 2000),
    "only at the end": two(2000, 9999),
    "one evaluation": {"train": series([0], [0.01]), "id": series([0], [0.02])},
    "one step": {"train": series([0, 1], [0.01, 1.0]), "id": series([0, 1], [0.02, 0.9])},
    "no step zero": {"train": series([5000], [1.0]), "id": series([5000], [0.9])},
    "not finite": {"train": series(STEPS, NAN), "id": series(STEPS, rising(600, 0.4))},
    "never finite": {"train": series(STEPS, [math.nan] * len(STEPS)), "id": series(STEPS, rising(600, 0.4))},
    "eight splits": {split: series(STEPS, rising(100 + 150 * i)) for i, split in enumerate(SPLITS)},
    "eight at zero": {split: series(STEPS, rising(100, 0.0)) for split in SPLITS},
    "long": {"train": series([0, 14_000, 1_500_000], [0, 1, 1]), "id": series([0, 14_000, 1_500_000], [0, 0.1, 1])},
    "a dollar sign": {**two(200, 300), r"$\no": series(STEPS, rising(500)), r"$\no$": series(STEPS, rising(600))},
}


@pytest.mark.parametrize("case", CASES)
def test_words_stay_on_the_figure_and_apart_in_every_state(case: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_curve(CASES[case])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    axes = figure.axes[0]
    texts = [*axes.texts, *axes.get_xticklabels(), axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels()]
    boxes = {text.get_text(): text.get_window_extent(canvas.get_renderer()) for text in texts if text.get_text()}
    assert boxes.keys() >= {split for split in CASES[case] if case != "never finite"} - {"train"}
    for text, box in boxes.items():
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, text
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height, text
    data = axes.get_window_extent()
    for one, other in combinations(boxes, 2):
        assert not boxes[one].shrunk(0.98, 0.7).overlaps(boxes[other].shrunk(0.98, 0.7)), (one, other)
    for text, box in boxes.items():
        assert not box.shrunk(0.98, 0.7).overlaps(data), f"{text} covers the data"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("apart", ["fits at 200", "groks at 1,500", "7.5×"]),
        ("close", ["fits at 1,000", "groks at 1,100"]),  # no room for the arrow
        ("together", ["fits at 1,000", "generalizes at 1,700"]),
        ("equal", ["fits and generalizes at 300"]),
        ("reversed", ["fits at 1,500", "generalizes at 200"]),
        ("not fitted", ["generalizes at 300"]),
        ("only at the end", ["fits at 2,000"]),
        ("from the start", ["fits at 0", "groks at 1"]),
        ("nothing yet", []),
        ("one evaluation", []),
    ],
)
def test_marks_say_what_was_reached(case: str, expected: list[str]) -> None:
    texts = {text.get_text() for text in draw_curve(CASES[case]).axes[0].texts}
    assert texts - {"train", "id", "ood", ""} == set(expected)


class Drawing:
    """What an SVG file shows: places of tick labels, and paths by the colour of their stroke."""

    def __init__(self, content: bytes):
        self.root = ET.fromstring(content)
        self.texts = {
            "".join(node.itertext()).strip(): (float(node.get("x", 0)), float(node.get("y", 0)))
            for node in self.root.iter("{http://www.w3.org/2000/svg}text")
        }

    def paths(self, colour: str, width: float, dashed: bool = False) -> list[list[tuple[float, float]]]:
        found = []
        for node in self.root.iter("{http://www.w3.org/2000/svg}path"):
            style = dict(part.strip().split(": ") for part in node.get("style", "").split(";") if part)
            look = (style.get("stroke"), float(style.get("stroke-width", 1)), "stroke-dasharray" in style)
            if look == (colour, width, dashed):
                numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*", node.get("d", ""))]
                found.append(list(zip(numbers[::2], numbers[1::2])))
        return found


def test_every_curve_and_both_marks_are_drawn_at_their_places() -> None:
    steps = [0, 1, 10, 100, 1000, 2000]
    matches = {
        "train": series(steps, [0, 0.2, 0.6, 1, 1, 1]),
        "id": series(steps, [0, 0.1, 0, 0.2, 0.4, 1]),
        "ood": series(steps, [0, 0, 0, 0, 0.1, 0.2]),
    }
    drawing = Drawing(svg(draw_curve(matches)))
    x = {step: drawing.texts[f"{step:,}"][0] for step in steps[:-1]}
    assert x[100] - x[10] == pytest.approx(x[10] - x[1], abs=0.01)
    x[2000] = x[1000] + math.log10(2) * (x[1000] - x[100])
    [foot, top] = (drawing.texts[label][1] for label in ("0.0", "1.0"))
    for split, colour in {"train": plots.GREY, "id": HUES[0], "ood": HUES[1]}.items():
        curve = max(drawing.paths(colour, 2), key=len)
        assert [at for at, _ in curve] == pytest.approx([x[step] for step in steps], abs=0.01), split
        heights = [(foot - (y + 3.42)) / (foot - top) for _, y in curve]  # a label's baseline lies below its tick
        assert heights == pytest.approx(list(matches[split].values), abs=0.01), split
    for colour, step in {plots.GREY: 100, HUES[0]: 2000}.items():
        [mark] = drawing.paths(colour, 1, dashed=True)
        assert [at for at, _ in mark] == pytest.approx([x[step]] * 2, abs=0.01)


def test_thin_dashed_lines_are_probes() -> None:
    pens = plots.split_pens(SPLITS, ["id", "ood", "test_hard"])
    assert {split for split, pen in pens.items() if pen.dashes == "-"} == {"train", "id", "ood", "test_hard"}
    assert len({(pen.colour, str(pen.dashes)) for pen in pens.values()}) == len(SPLITS)
    assert all(pen.width < pens["id"].width for split, pen in pens.items() if pen.dashes != "-")


def test_curves_that_end_together_are_named_in_their_order() -> None:
    axes = draw_curve(CASES["eight at zero"]).axes[0]
    assert [text.get_text() for text in sorted(axes.texts, key=lambda text: -text.get_position()[1])] == SPLITS


def test_the_time_between_fitting_and_generalizing_is_tinted_and_no_other() -> None:
    def tints(case: str) -> int:
        return sum(patch.get_alpha() == 0.07 for patch in draw_curve(CASES[case]).axes[0].patches)

    assert [tints(case) for case in ("apart", "together", "equal", "reversed", "not fitted")] == [1, 0, 0, 0, 0]


def test_drawing_twice_gives_the_same_bytes() -> None:
    for case in ("apart", "eight splits"):
        one, other = (draw_curve(CASES[case]) for _ in range(2))
        assert svg(one) == svg(other) and png(one) == png(other)


def training(columns: dict[str, Series]) -> Figure:
    pens = plots.split_pens(["train", "id", "probe"], ["id"])
    return plots.training(columns, pens, GrokTracker(), StepScale.over(2000, []))


def test_quantities_begin_at_zero_or_are_logarithmic() -> None:
    losses = {f"eval_{split}_loss": series(STEPS, [4.0 / (step + 1) for step in STEPS]) for split in ("train", "probe")}
    others = {"weight_norm": [20.0 + step / 1e6 for step in STEPS], "grad_norm": [1e-3 * (step + 1) for step in STEPS]}
    figure = training(losses | {key: series(STEPS, values) for key, values in others.items()})
    loss, weights, gradient = figure.axes
    assert loss.get_yscale() == gradient.get_yscale() == "log" and weights.get_ylim()[0] == 0
    assert [line.get_label() for line in loss.lines if len(line.get_xdata()) == len(STEPS)] == ["train"]
    assert len({axes.get_position().x0 for axes in figure.axes}) == 1  # one step lies above the other


def test_softmax_collapse_is_shown_where_there_is_some() -> None:
    loss = {"loss": series(STEPS, [1.0] * len(STEPS))}
    none = loss | {"eval_train_softmax_collapse": series(STEPS, [0.0] * len(STEPS))}
    some = loss | {"eval_train_softmax_collapse": series(STEPS, [0.0] * (len(STEPS) - 1) + [0.25])}
    assert len(training(none).axes) == 1 and len(plots.panel_titles(none)) == 1
    low, high = training(some).axes[1].get_ylim()
    assert low == 0 and 0.25 < high < 0.3 and len(plots.panel_titles(some)) == 2


@pytest.mark.parametrize("values", [[0.0, 0.0], [math.nan, math.nan], [1.0, 0.0], [1e-12, 1e9], [0.5, 0.500001]])
def test_a_loss_of_any_course_is_drawn_with_labels_that_are_numbers(values: list[float]) -> None:
    figure = training({"eval_train_loss": series([0, 2000], values), "grad_norm": series([1, 2000], values)})
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        assert 1 <= len(ticks) <= 8 and all(math.isfinite(tick) for tick in ticks)


def test_values_that_are_not_finite_interrupt_the_curve() -> None:
    figure = training({"eval_train_loss": series([0, 1, 2, 3, 4], [4, 3, math.inf, math.nan, 1])})
    curve, dot = figure.axes[0].lines[:2]
    assert np.isnan(curve.get_ydata()[2:4]).all()
    assert list(dot.get_xdata()) == [4]  # a point without neighbours is a dot


def test_a_million_points_make_a_small_drawing() -> None:
    values = np.random.default_rng(0).uniform(0.1, 1, 1_000_000)
    figure = training({"grad_norm": series(range(1_000_000), values)})
    assert len(svg(figure)) < 300_000


def test_png_is_a_picture_of_the_expected_size() -> None:
    import matplotlib.image

    height, width, _ = matplotlib.image.imread(io.BytesIO(png(draw_curve(CASES["apart"])))).shape
    assert width == 1540 and 700 < height < 900
