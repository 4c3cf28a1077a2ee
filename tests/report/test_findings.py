"""Sentences about figures, values under a pointer, and the words of a page: all from the numbers of the run."""

from __future__ import annotations

import json
import re
from array import array
from pathlib import Path

import numpy as np
import pytest

from pipeline.plots.findings import of_edges, of_grids, of_losses
from pipeline.report.__main__ import main
from pipeline.report.analyses import in_chapters
from pipeline.report.findings import of_curve, of_training
from pipeline.report.glossary import TERMS, used_in
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics import Series
from tests.written_runs import write_run

STEPS = [0, 1, 10, 50, 100, 200, 400, 1000, 2000]
MATCHES = [0.0, 0.0, 0.0, 0.1, 0.2, 0.4, 0.6, 0.995, 1.0]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    matches = {step: [float(step >= 100) or 0.2, match] for step, match in zip(STEPS, MATCHES)}
    norms = [{"step": step, "weight_norm": norm} for step, norm in ((1, 20.0), (100, 41.0), (2000, 30.0))]
    return write_run(tmp_path / "run", matches, final=[1, 1], lines=norms)


def test_the_curve_is_told_by_its_own_numbers(run: Path) -> None:
    assert of_curve(RunFolder.read(run)) == (
        "In this run `train` is at 0.99 at step 100, where `id` is at 0.200; "
        "`id` passes 0.5 at step 400 and takes 600 more to 0.99."
    )


def test_a_run_that_does_not_learn_is_told_so(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: [0, 0], 100: [1, 0.25], 2000: [1, 0.125]}, final=[1, 0.125])
    assert of_curve(RunFolder.read(path)).endswith("`id` has not passed 0.5; its highest is 0.250.")


def test_the_norm_and_the_loss_are_told(run: Path) -> None:
    found = RunFolder.read(run)
    assert "goes from 20 to 30, and is highest at step 100, 41." in of_training(found)
    losses = [2.0, 2.5, 6.0, 5.0, 2.9, 0.1]
    found.series["eval_id_loss"] = Series(array("q", [0, 10, 50, 100, 200, 1000]), array("d", losses))
    assert of_training(found).startswith(
        "The loss on `id` is highest at step 50, 6, 3 times what it was before training; "
        "it has halved by step 200, where exact match is 0.400."
    )


def test_a_pointer_gets_the_values_that_were_logged_where_they_are_drawn(run: Path) -> None:
    assert main([str(run)]) == 0
    page = (run / "report.html").read_text()
    first, second = re.findall(
        r'<figure class="curves">.*?<script type="application/json">(.*?)</script>', page, re.DOTALL
    )
    values = json.loads(first)
    assert values["steps"] == STEPS and values["curves"]["id"] == MATCHES
    # Logarithmic from step 1 on, as train is above 0.1 there; before it as long as 0.4 decades.
    wanted = [0, *(0.4 + np.log10(step) for step in STEPS[1:])]
    assert np.allclose(values["places"], np.divide(wanted, 0.4 + np.log10(2000)), atol=1e-4)
    clip = r'<clipPath[^>]*>\s*<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
    for where, box in zip(("for-wide", "for-narrow"), values["boxes"], strict=True):
        drawing = re.search(clip, page[page.index(f'{where}"') :])
        assert drawing and box == pytest.approx([float(length) for length in drawing.groups()], abs=0.1)
    assert "norm of the weights (L2)" in json.loads(second)["curves"]


def test_a_page_explains_the_words_that_it_has(run: Path) -> None:
    assert main([str(run)]) == 0
    text = (run / "report.md").read_text()
    words = text.partition("The words of this page")[2]
    assert "| exact match |" in words and "| id (in distribution) |" in words
    assert "| bridge |" not in words and "| replay |" not in words
    assert [term for term, _ in used_in("what a grok step and replayed text are")] == ["grok step"]
    assert list(TERMS) == sorted(TERMS)


def test_analyses_stand_in_the_order_of_a_story() -> None:
    found = in_chapters(["attention", "attribution", "causal_tracing", "faithfulness", "fourier", "logit_lens"])
    assert list(found.values()) == [
        ["fourier", "logit_lens"],
        ["causal_tracing", "attention"],
        ["attribution", "faithfulness"],
    ]
    assert in_chapters(["patching"]) == {"Where it is": ["patching"]}


def test_a_heat_map_is_told_by_its_largest_cell() -> None:
    values = np.zeros((4, 1, 2, 3))
    values[:, 0, 1, 2] = [0.1, 0.6, 0.2, 0.8]
    values[:, 0, 0, 0] = 0.3
    found = of_grids(values, [0, 10, 100, 1000], [""], ["0", "1"], ["h", "r1", "r2"], ("layer", "position"))
    place = "At step 1,000 largest at layer 1, position r2"
    assert found == f"{place} (0.800; 0.100 at step 0, at least half of it from step 1,000 on)."
    assert of_grids(np.full((2, 1, 1, 1), np.nan), [0, 1], [""], ["0"], ["h"], ("layer", "position")) == ""


def test_losses_and_edges_are_told() -> None:
    def series(*values: float) -> Series:
        return Series(array("q", [0, 10, 20, 30]), array("d", values))

    losses = {"restricted": series(4, 3, 1, 0.5), "held-out": series(4, 5, 3, 1), "excluded": series(4, 4, 5, 6)}
    found = of_losses(losses, [3, 5])
    assert found.startswith("At step 30, 2 key frequencies alone reach a loss of 0.500, all of the model 1 on")
    assert found.endswith("by step 20, before the held-out loss (step 30).")
    edges = [("a", "b", 1.0), ("b", "c", -6.0), ("a", "c", 2.0), ("c", "d", 0.5)]
    assert of_edges(edges) == (
        "Strongest: `b` to `c`, `a` to `c`, `a` to `b`. 1 of 4 edges carry half of the sum of all scores."
    )
