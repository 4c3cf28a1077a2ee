"""A report in Chromium, narrow and wide: what a pointer shows, what a slider shows, and that nothing is cut off.

python -m pytest -m browser tests/report/test_browser.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.report.__main__ import main
from pipeline.report.page import Answers, as_html
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


def test_answers_are_filled_in(tmp_path: Path) -> None:
    answers = Answers([0, 10], [("1 2 =", "trained", "3")], [[("<b>", 0.25, False)], [("3", 0.75, True)]])
    page = tmp_path / "page.html"
    page.write_text(as_html("t", [answers], {}), encoding="utf-8")
    seen = shown(page, 900)
    assert "step 10" in seen and "\u2713 3</td>" in seen and "<span>0.750</span>" in seen
