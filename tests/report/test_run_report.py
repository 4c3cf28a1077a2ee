"""The report of a run: whole in every state, beside the paper, the same each time, and clear about what is broken."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.circuits.tables import write_table
from pipeline.config.recipe import read_recipe
from pipeline.report.__main__ import main
from pipeline.report.run_report import summary, write_report
from tests.plots.test_training import Drawing
from tests.report.test_page import Reader, needs_nothing_but_itself, rendered, seen
from tests.tiny import ROOT
from tests.written_runs import COMPOSITION, GROUP, write_run

STEPS = [0, 1, 10, 50, 100, 200, 400, 1000, 2000]
GROKKED = {step: [float(step >= 100) or 0.2, float(step >= 1000) or 0.1] for step in STEPS}
TWO_HOP = {step: [*matches, 0.0, *[matches[0]] * 3] for step, matches in GROKKED.items()}
PAPER = """
paper:
  title: Wang et al. 2024, "Grokked <Transformers>", arXiv 2405.15071
  numbers: {id: 1.00 | after *50* times, ood: "0.00", fit_step: "14,000", grok_gap: "50", weight_norm: about 30}
"""


def report(run: Path) -> tuple[Reader, Reader]:
    """The report as readers of the Markdown and of the HTML see it; both have the same tables and words."""
    assert main([str(run)]) == 0
    text = (run / "report.html").read_text()
    needs_nothing_but_itself(text)
    markdown, page = rendered((run / "report.md").read_text()), Reader(text)
    tables = [[[seen(cell) for cell in row] for row in reader.rows if any(row)] for reader in (markdown, page)]
    assert tables[0] == tables[1]
    return markdown, page


def cells(page: Reader, first: str) -> list[list[str]]:
    return [[seen(cell) for cell in row] for row in page.rows if seen(row[0]) == first]


def test_a_report_shows_the_curve_the_numbers_and_how_to_repeat_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a_run", GROKKED, final=[1, 0.995])
    markdown, page = report(run)
    assert page.text.strip().startswith("a_run: groks at step 1,000")
    for words in ("It fits its training set at step 100 and generalizes at step 1,000", "2,000 steps took 20 s"):
        assert words in markdown.text and words in page.text
    assert cells(page, "split") == [["split", "role", "rows measured", "exact match", "loss"]]
    assert cells(page, "train") == [["train", "trained", "2,823", "1.000", "1"]]
    assert cells(page, "id") == [["id", "held out", "6,586", "0.995", "1.00"]]
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    pictures = [attributes for tag, attributes in markdown.tags if tag == "img"]
    assert [each["alt"] for each in pictures] == [*dict.fromkeys(each["aria-label"] for each in drawings)]
    assert pictures[0]["alt"] == (
        "Exact match over training steps. a_run groks at step 1,000. At the last evaluation: train 1.000, id 1.000."
    )
    for picture in pictures:
        assert picture["src"] and (run / picture["src"]).stat().st_size > 10_000
    assert cells(page, "code") == [["code", "0123456789abcdef"]]
    assert cells(page, "packages") == [["packages", "torch 2.13.0, transformers 5.23.0"]]
    assert "1 step, 1.5 MB: 0." in page.text
    curve = Drawing((run / "figures" / "curve.svg").read_bytes())
    assert {"fits at 100", "groks at 1,000", "10×", "train", "id"} <= curve.texts.keys()


def test_the_command_and_the_recipe_repeat_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a run", GROKKED, final=[1, 1])
    report(run)
    [command] = re.findall(r"```bash\n(.*)\n```", (run / "report.md").read_text())
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "pipeline.run"] and words[4:] == ["--output_dir", f"{run}-again"]
    [folded] = re.findall(r"```yaml\n(.*)```", (run / "report.md").read_text(), re.DOTALL)
    assert folded == (run / "recipe.yaml").read_text()
    assert not read_recipe(words[3], words[4:]).differences({**read_recipe(words[3]).resolved()})


def test_several_processes_are_repeated_as_such(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", GROKKED)
    starts = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps([{**starts[0], "processes": 8}]))
    report(run)
    assert "accelerate launch --num_processes 8 pipeline/run.py " in (run / "report.md").read_text()


def test_the_papers_numbers_stand_beside_those_measured(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", TWO_HOP, recipe=COMPOSITION + PAPER, final=[1, 0.98, 0, 1, 1, 1])
    _, page = report(run)
    assert cells(page, "train")[0] == ["train", "trained", "3,000 of 382,000", "1.000", "1", "–"]
    assert cells(page, "id")[0] == ["id", "held out", "3,000", "0.980", "1.02", "1.00 | after *50* times"]
    assert cells(page, "id_atomic")[0][1] == "probe of train"
    assert cells(page, "measure") == [["measure", "this run", "paper"]]
    assert cells(page, "fit_step") == [["fit_step", "100", "14,000"]]
    assert cells(page, "grok_gap") == [["grok_gap", "10", "50"]]
    assert cells(page, "weight_norm") == [["weight_norm", "20", "about 30"]]
    assert 'The paper is Wang et al. 2024, "Grokked <Transformers>", arXiv 2405.15071.' in page.text
    assert "So `id` is not at 0.99 or above." in (run / "report.md").read_text()


def test_a_paper_without_numbers_is_named(tmp_path: Path) -> None:
    _, page = report(write_run(tmp_path / "run", GROKKED, recipe=GROUP + "paper: {title: Power et al. 2022}\n"))
    assert "After Power et al. 2022." in page.text and not cells(page, "measure")


def greedy(agreement: float) -> list[dict[str, float]]:
    keys = {"final_id_greedy_exact_match": 0.984, "final_id_greedy_agreement": agreement}
    return [{"step": 2000, **keys, "final_train_exact_match": 1.0, "final_id_exact_match": 0.99}]


def test_decoded_answers_are_shown_where_they_were_measured(tmp_path: Path) -> None:
    _, page = report(write_run(tmp_path / "run", GROKKED, lines=greedy(1.0)))
    assert cells(page, "split")[0][-1] == "decoded"
    assert cells(page, "id")[0][-1] == "0.984" and cells(page, "train")[0][-1] == "–"
    assert "the two judge all of it alike." in page.text
    _, page = report(write_run(tmp_path / "other", GROKKED, lines=greedy(0.996)))
    assert "the two judge 0.996 of the sample of id alike." in page.text


def test_numbers_of_an_earlier_end_do_not_count_once_the_run_goes_on(tmp_path: Path) -> None:
    lines = [*greedy(1.0), {"step": 2050, "loss": 1.0}]
    _, page = report(write_run(tmp_path / "run", GROKKED, "--max_steps=9000", lines=lines))
    assert cells(page, "split")[0][-1] == "loss" and "Numbers so far" in page.text
    assert cells(page, "id")[0][3] == "1.000"


def test_a_run_in_progress_shows_what_was_sampled(tmp_path: Path) -> None:
    evaluations = {step: matches for step, matches in GROKKED.items() if step <= 400}
    _, page = report(write_run(tmp_path / "run", evaluations, "--max_eval_samples=1000"))
    assert cells(page, "train")[0][2] == "1,000 of 2,823" and cells(page, "id")[0][2] == "1,000 of 6,586"
    assert "step 400 of 2,000 is the last that was logged" in page.text


def test_a_run_that_has_logged_nothing_has_a_report_that_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {})
    (run / "metrics.jsonl").unlink()
    (run / "manifest.json").unlink()
    _, page = report(run)
    assert "Its splits have not been measured yet." in page.text
    assert "nothing has been logged yet of its 2,000 steps" in page.text
    assert not cells(page, "split") and not list((run / "figures").iterdir())


def test_a_run_that_was_not_evaluated_shows_its_loss(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 1.0 / step} for step in range(50, 2001, 50)]
    run = write_run(tmp_path / "run", {}, lines=lines)
    report(run)
    assert {path.name for path in (run / "figures").iterdir()} == {
        "training.png",
        "training.svg",
        "training.csv",
    }


def test_a_missing_environment_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", GROKKED, final=[1, 1])
    (run / "environment.json").unlink()
    _, page = report(run)
    assert "environment.json is missing, so nothing is known of what this ran on." in page.text
    assert cells(page, "corpus") == [["corpus", "group, content hash abababababababab"]]


def test_the_terminal_gets_the_story(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", GROKKED, final=[1, 1])
    text = summary(write_report(run))
    assert "generalizes at step 1,000, after 10 times as many steps" in text
    assert text.endswith(f"report: {run / 'report.html'}")


def test_figures_have_their_numbers_beside_them_and_other_formats(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", GROKKED, final=[1, 1])
    assert main([str(run), "--format", "pdf,svg"]) == 0
    assert {path.name for path in (run / "figures").iterdir()} == {
        f"{name}.{ending}" for name in ("curve", "training") for ending in ("png", "svg", "pdf", "csv")
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["step"], line["eval_id_exact_match"]) for line in lines if "eval_id_exact_match" in line]
    curve = list(csv.DictReader((run / "figures" / "curve.csv").open()))
    assert [(int(row["step"]), float(row["exact_match"])) for row in curve if row["split"] == "id"] == logged
    others = [(line["step"], line["eval_id_loss"]) for line in lines if "eval_id_loss" in line]
    training = list(csv.DictReader((run / "figures" / "training.csv").open()))
    found = [(int(row["step"]), float(row["value"])) for row in training if row["metric"] == "eval_id_loss"]
    assert found == others and len(others) > 2


def test_figures_of_analyses_have_the_rows_that_they_show_beside_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", GROKKED, final=[1, 1])
    values = {"key": 1.0, "logits": 0.75, "embedding": 0.5, "neurons": 0.25}
    rows = [{"measure": name, "frequency": 5, "value": value} for name, value in values.items()]
    losses = ("train", "held-out", "restricted", "excluded")
    rows += [{"measure": f"{name} loss", "frequency": -1, "value": 2.0} for name in losses]
    rows += [{"measure": f"gini {name}", "frequency": -1, "value": 0.5} for name in ("embedding", "unembedding")]
    for step in (0, 2000):
        table = pa.Table.from_pylist([{"step": step, **row, "value": row["value"] / (step + 1)} for row in rows])
        write_table(run, f"circuits/fourier/step{step}.parquet", table, {"parameters": {}})
    assert main([str(run), "--format", "svg"]) == 0
    every, last = (pd.read_csv(run / "figures" / f"fourier{ending}.csv") for ending in ("", "_spectrum"))
    tables = [pq.read_table(run / "circuits" / "fourier" / f"step{step}.parquet").to_pandas() for step in (0, 2000)]
    pd.testing.assert_frame_equal(every, pd.concat(tables, ignore_index=True))
    pd.testing.assert_frame_equal(last, tables[1])
    assert "`figures/fourier.csv` and `figures/fourier_spectrum.csv`" in (run / "report.md").read_text()


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", TWO_HOP, recipe=COMPOSITION + PAPER, final=[1, 1, 0, 1, 1, 1])
    found = []
    for seed in "01":
        command = [sys.executable, "-m", "pipeline.report", str(run)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True)
        found.append({path.name: path.read_bytes() for path in [*run.glob("report.*"), *run.glob("figures/*")]})
    assert found[0] == found[1] and len(found[0]) == 8


def test_a_report_needs_neither_torch_nor_transformers() -> None:
    program = "import sys, pipeline.report; print({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


BROKEN_TEXTS = {
    "recipe.yaml": ["", "a: [", "- a", "max_steps: 5", "max_steps: x\nglobal_batch_size: 1"],
    "corpus/corpus.json": ["", "[]", "{}", '{"sizes": [], "held_out": []}', '{"sizes": {}, "held_out": []}'],
    "environment.json": ["", "{", "7", "[7]"],
    "manifest.json": ["", "[]", "{}"],
}
NO_RUN = "{run}: is not the folder of a run: it has no recipe.yaml"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda run: run.rename(run.with_name("elsewhere")), NO_RUN),
    "no recipe": (lambda run: (run / "recipe.yaml").unlink(), NO_RUN),
    "no corpus": (
        lambda run: (run / "corpus" / "corpus.json").unlink(),
        "{run}/corpus/corpus.json: is missing, so this is not the folder of a run",
    ),
    "a line": (
        lambda run: (run / "metrics.jsonl").write_text('{"step": 0}\n{"ste\n{"step": 2}\n'),
        "{run}/metrics.jsonl:2: is damaged; delete the line to go on without it",
    ),
    "not text": (lambda run: (run / "recipe.yaml").write_bytes(b"\xff\xfe\x00"), "{run}/recipe.yaml: is damaged"),
}
REBUILT = "{run}: manifest.json is damaged; python -m pipeline.runs rebuild-manifest {run} makes a new one"
for name, texts in BROKEN_TEXTS.items():
    for text in texts:
        write = partial(lambda run, name, text: (run / name).write_text(text), name=name, text=text)
        said = f"{REBUILT} from what verifies" if name == "manifest.json" else f"{{run}}/{name}: is damaged"
        DAMAGE[f"{name}: {text!r}"] = (write, said)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_read_is_one_line_and_leaves_the_old_report(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", GROKKED, final=[1, 1])
    (run / "report.md").write_text("an earlier report")
    break_it, message = DAMAGE[damage]
    break_it(run)
    assert main([str(run)]) == 2
    assert capsys.readouterr().err == message.format(run=run) + "\n"
    if run.exists():
        assert (run / "report.md").read_text() == "an earlier report"
        assert not (run / "figures").exists()


def test_output_is_for_comparisons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_run(tmp_path / "run", GROKKED)), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "--output: is for a comparison; the report of one run lies in its folder\n"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", GROKKED, final=[1, 1])
    (run / "figures").write_text("in the way")
    assert main([str(run)]) == 2
    assert capsys.readouterr().err == f"{run / 'figures'}: is in the way; a folder belongs there\n"
    assert not (run / "report.md").exists()
