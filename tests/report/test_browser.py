"""A report in Chromium, narrow and wide: what a pointer shows, what a slider shows, and that nothing is cut off.

python -m pytest -m browser tests/report/test_browser.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.plots.base import Frames
from pipeline.report.__main__ import main
from pipeline.report.page import Answers, MovingGraph, as_html
from tests.report.test_comparison import a_run
from tests.report.test_findings import MATCHES, STEPS
from tests.written_runs import write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]
POINT = """<script>
const svg = document.querySelector('figure.curves svg'), frame = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent('pointermove', {clientX: frame.left + frame.width * %f, clientY: frame.top + 9}));
document.body.dataset.said = document.querySelector('figure.curves output').textContent;
document.body.dataset.wider = document.documentElement.scrollWidth - document.documentElement.clientWidth;
</script>"""


def shown(page: Path, width: int) -> str:
    """The page as it is once its scripts have run."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("width", [500, 1400])
def test_a_pointer_shows_values_and_the_page_is_not_wider_than_the_window(width: int, tmp_path: Path) -> None:
    matches = {step: [float(step >= 100) or 0.2, match] for step, match in zip(STEPS, MATCHES)}
    run = write_run(tmp_path / "run", matches, final=[1, 1])
    assert main([str(run)]) == 0
    text = (run / "report.html").read_text()
    found = re.search(r'"view":\[([\d.]+),.*?"box":\[([\d.]+),[\d.]+,([\d.]+),', text)
    assert found
    view, left, wide = map(float, found.groups())
    page = tmp_path / "page.html"
    page.write_text(text.replace("</main>", "</main>" + POINT % ((left + wide) / view)))  # the last step
    seen = shown(page, width)
    assert re.search(r'data-said="step 2,000\s+train 1\s+id 1"', seen)
    assert 'data-wider="0"' in seen


MEASURE = """<script>
document.body.dataset.wider = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.body.dataset.cut = [...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length;
const boxes = [...document.querySelectorAll('svg')].map(svg => [...svg.querySelectorAll('text')]
  .filter(text => text.textContent.trim()).map(text => [text.textContent, text.getBoundingClientRect()]));
const touch = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
  Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
document.body.dataset.touching = boxes.flatMap(texts => texts.flatMap(([one, a], i) => texts.slice(i + 1)
  .filter(([, b]) => touch(a, b)).map(([other]) => one + ' / ' + other))).join('; ');
</script>"""


@pytest.mark.parametrize("width", [900, 1400])
def test_a_comparison_is_whole_at_900_pixels(width: int, tmp_path: Path) -> None:
    """Nothing is cut off or scrolled, and no labels of a figure touch."""
    paths = [
        a_run(tmp_path / f"weight_decay={decay},train_fraction={part},seed={seed}", f"--weight_decay={decay}",
              f"--corpus.train_fraction={part}", f"--seed={seed}", grok=400 + 600 * seed)
        for decay in (0.3, 1) for part in (0.4, 0.6) for seed in (0, 1, 2)
    ]  # fmt: skip
    assert main([*map(str, paths), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    page = tmp_path / "page.html"
    page.write_text(text.replace("</main>", "</main>" + MEASURE))
    seen = shown(page, width)
    assert 'data-wider="0"' in seen and 'data-cut="0"' in seen and 'data-touching=""' in seen


def test_a_circuit_shows_the_edges_of_its_step(tmp_path: Path) -> None:
    nodes = [("logits", 1.0, 0.2), ("m0", 1.0, 0.8), ("input", 1.0, 1.4)]
    edges = [("input", "m0", 0.0), ("m0", "logits", 0.0), ("input", "logits", 0.0)]
    frames = Frames((2.0, 1.6), nodes, edges, [0, 8], [[1.0, 0.0, 0.5], [-1.0, 0.25, 0.0]])
    page = tmp_path / "page.html"
    page.write_text(as_html("t", [MovingGraph(frames)], {}).replace("</main>", "</main>" + MEASURE), encoding="utf-8")
    seen = shown(page, 900)
    shapes = re.findall(r"<path [^>]*style=\"([^\"]*)\"[^>]*><title>([^<]*)</title>", seen)
    assert [title for _, title in shapes] == ["input to m0: -1", "m0 to logits: 0.25", "input to logits: 0"]
    assert ["hidden" in style for style, _ in shapes] == [False, False, True]
    assert "rgb(0, 114, 178)" in shapes[0][0] and "rgb(213, 94, 0)" in shapes[1][0] and 'data-touching=""' in seen


def test_answers_are_filled_in(tmp_path: Path) -> None:
    answers = Answers([0, 10], [("1 2 =", "trained", "3")], [[("<b>", 0.25, False)], [("3", 0.75, True)]])
    page = tmp_path / "page.html"
    page.write_text(as_html("t", [answers], {}).replace("</main>", "</main>" + MEASURE), encoding="utf-8")
    seen = shown(page, 500)
    assert 'data-wider="0"' in seen and 'data-cut="0"' in seen
    assert "step 10" in seen and "\u2713 3</td>" in seen and "<span>0.750</span>" in seen
