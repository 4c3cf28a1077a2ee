"""Pages in Chromium: what pointers and sliders show, and that at three widths nothing is cut, touches or is too faint.

Screenshots are compared with each other and not with stored ones: fonts differ by machine, and a stored picture would
fail for them and not for a mistake. What a stored picture would show is asked of the page itself: where each label
lies, and how it stands out.

python -m pytest -m browser tests/report/test_browser.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.circuits.tables import write_table
from pipeline.claims.pages import gallery
from pipeline.claims.record import recorded
from pipeline.plots.base import Frames
from pipeline.report.__main__ import main
from pipeline.report.page import Answers, MovingGraph, as_html
from tests.chromium import WIDTHS, Chromium, program
from tests.report.test_comparison import a_run
from tests.report.test_findings import MATCHES, STEPS
from tests.tiny import ROOT
from tests.written_runs import write_run

pytestmark = pytest.mark.browser
LAYOUT, CONTRAST = (Path(__file__).with_name(f"{name}.js").read_text() for name in ("layout", "contrast"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    if program() is None:
        pytest.skip("no Chromium here, and none can be installed")
    with Chromium() as found:
        yield found


def a_circuit(run: Path) -> None:
    """Tables of analyses at four steps: heat maps, curves, bars and a graph."""
    rng = np.random.default_rng(0)
    nodes = ["a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0"]
    edges = [("input", node) for node in nodes] + [(node, "logits") for node in nodes] + [("input", "logits")]
    places = ["a", "b", "="]
    for step in (0, 64, 512, 2000):
        share = (step + 1) / 2001
        lens = [
            {"step": step, "layer": layer, "position": i, "place": place, "target": target,
             "rank": 1.0, "mrr": float(share * rng.random()), "probability": 0.1}
            for layer in range(2) for i, place in enumerate(places) for target in ("answer", "the token itself")
        ]  # fmt: skip
        write_table(run, f"circuits/logit_lens/step{step}.parquet", pa.Table.from_pylist(lens), {})
        scores = [{"step": step, "writer": node, "reader": "", "score": float(share * rng.normal())} for node in nodes]
        scores += [{"step": step, "writer": a, "reader": b, "score": float(share * rng.normal())} for a, b in edges]
        write_table(run, f"circuits/attribution/step{step}.parquet", pa.Table.from_pylist(scores), {})
        keys = range(1, 49)
        fourier = [{"measure": name, "frequency": k, "value": float(rng.random()) / 48}
                   for name in ("embedding", "neurons", "logits") for k in keys]  # fmt: skip
        fourier += [{"measure": "key", "frequency": k, "value": 1.0} for k in (5, 6, 7, 23, 30, 31, 40, 41)]
        fourier += [{"measure": f"{name} loss", "frequency": -1, "value": 5 * (1.01 - share)}
                    for name in ("train", "held-out", "restricted", "excluded")]  # fmt: skip
        fourier += [
            {"measure": f"gini {name}", "frequency": -1, "value": share} for name in ("embedding", "unembedding")
        ]
        table = pa.Table.from_pylist([{"step": step, **row} for row in fourier])
        write_table(run, f"circuits/fourier/step{step}.parquet", table, {})


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report with circuits, a comparison of twelve runs in a grid, one of six kinds, and the gallery of claims."""
    home = tmp_path_factory.mktemp("pages")
    matches = {step: [float(step >= 100) or 0.2, match] for step, match in zip(STEPS, MATCHES)}
    run = write_run(home / "run", matches, final=[1, 1])
    a_circuit(run)
    assert main([str(run)]) == 0
    grid = [
        a_run(home / f"weight_decay={decay},train_fraction={part},seed={seed}", f"--weight_decay={decay}",
              f"--corpus.train_fraction={part}", f"--seed={seed}", grok=400 + 600 * seed)
        for decay in (0.3, 1) for part in (0.4, 0.6) for seed in (0, 1, 2)
    ]  # fmt: skip
    assert main([*map(str, grid), "--output", str(home / "grid")]) == 0
    swept = [a_run(home / f"decay{i}", f"--weight_decay={0.1 * (i + 1):.1f}", grok=200 * (i + 1)) for i in range(6)]
    assert main([*map(str, swept), "--output", str(home / "swept")]) == 0
    results = ROOT / "recipes" / "results"
    (home / "claims.html").write_text(gallery(recorded(results), results), encoding="utf-8")
    found = {name: home / name / "report.html" for name in ("run", "grid", "swept")}
    return {**found, "gallery": home / "claims.html"}


NAMES = ("run", "grid", "swept", "gallery")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_scrolls_or_touches(name: str, width: int, browser: Chromium, pages: dict[str, Path]) -> None:
    """The page is as wide as the window, curves do not scroll sideways, and labels neither touch nor leave figures."""
    browser.open(pages[name], width)
    found = browser.evaluate(LAYOUT)
    assert found["wider"] == 0
    assert {key: found[key] for key in ("sideways", "touching", "cut", "small") if found[key]} == {}
    assert found["tables"] == 0 or width < 900
    assert found["figures"] >= (0 if name == "gallery" else 3)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_text_stands_out(name: str, dark: bool, browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages[name], 1400, dark)
    assert browser.evaluate(CONTRAST) == []


def test_a_page_looks_the_same_each_time_and_other_in_the_dark(browser: Chromium, pages: dict[str, Path]) -> None:
    shots = []
    for dark in (False, False, True):
        browser.open(pages["run"], 400, dark)
        shots.append(browser.screenshot())
    assert shots[0] == shots[1] and shots[0] != shots[2]


POINT = """(() => {
  const svg = [...document.querySelectorAll('figure.curves svg')].find(svg => svg.getClientRects().length);
  const frame = svg.getBoundingClientRect();
  const at = {clientX: frame.left + frame.width * SHARE, clientY: frame.top + 9};
  svg.dispatchEvent(new PointerEvent('pointermove', at));
  return document.querySelector('figure.curves output').textContent;
})()"""


@pytest.mark.parametrize("width", WIDTHS)
def test_a_pointer_shows_values(width: int, browser: Chromium, pages: dict[str, Path]) -> None:
    """At the last step, at the right side of the axes, which lie elsewhere in the drawing for a narrow page."""
    text = pages["run"].read_text()
    boxes = re.search(r'"boxes":\[\[([\d.]+),[\d.]+,([\d.]+),[\d.]+\],\[([\d.]+),[\d.]+,([\d.]+),', text)
    assert boxes
    left, wide = map(float, boxes.groups()[2:] if width == 400 else boxes.groups()[:2])
    browser.open(pages["run"], width)
    share = (left + wide) / (3.9 * 72 if width == 400 else 7 * 72)
    assert re.fullmatch(r"step 2,000\s+train 1\s+id 1", browser.evaluate(POINT.replace("SHARE", str(share))))


def test_a_circuit_shows_the_edges_of_its_step(browser: Chromium, tmp_path: Path) -> None:
    nodes = [("logits", 1.0, 0.2), ("m0", 1.0, 0.8), ("input", 1.0, 1.4)]
    edges = [("input", "m0", 0.0), ("m0", "logits", 0.0), ("input", "logits", 0.0)]
    frames = Frames((2.0, 1.6), nodes, edges, [0, 8], [[1.0, 0.0, 0.5], [-1.0, 0.25, 0.0]])
    page = tmp_path / "page.html"
    page.write_text(as_html("t", [MovingGraph(frames)], {}), encoding="utf-8")
    browser.open(page, 900)
    shapes = browser.evaluate(
        "[...document.querySelectorAll('.graph path')].map(p => [p.textContent, p.style.cssText])"
    )
    assert [title for title, _ in shapes] == ["input to m0: -1", "m0 to logits: 0.25", "input to logits: 0"]
    assert ["hidden" in style for _, style in shapes] == [False, False, True]
    assert "rgb(0, 114, 178)" in shapes[0][1] and "rgb(213, 94, 0)" in shapes[1][1]
    assert browser.evaluate(LAYOUT)["touching"] == []


def test_answers_are_filled_in(browser: Chromium, tmp_path: Path) -> None:
    answers = Answers([0, 10], [("1 2 =", "trained", "3")], [[("<b>", 0.25, False)], [("3", 0.75, True)]])
    page = tmp_path / "page.html"
    page.write_text(as_html("t", [answers], {}), encoding="utf-8")
    browser.open(page, 400)
    assert browser.evaluate(LAYOUT)["wider"] == 0
    cells = browser.evaluate("[...document.querySelectorAll('tbody td, output')].map(cell => cell.textContent.trim())")
    assert cells == ["step 10", "trained", "3", "\u2713 3", "0.750"]
    move = "(() => { const s = document.querySelector('input'); s.value = 0; s.oninput(); })()"
    browser.evaluate(move)
    assert browser.evaluate("document.querySelectorAll('tbody td')[2].textContent") == "\u2717 <b>"
