"""How long a run is: it goes on when it is asked for more, and every part of it counts the same steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.runs.folder import RunFolder
from pipeline.runs.manifest import Manifest
from tests.bases import make_base, sentences
from tests.tiny import RECIPE, run_here, write_recipe

QUIET = ("--callbacks.console.style", "off")
EPOCHS = RECIPE.replace("max_steps: 24", "num_train_epochs: 2").replace("save_steps: 6", "save_steps: 100")
# 60 rows in batches of 16: 4 updates an epoch.
FINISHED = "is finished"


def step_of(run: Path) -> int:
    finished = Manifest.load(run).finished
    assert finished is not None
    return int(finished["step"])


def as_earlier_code_wrote_it(run: Path) -> None:
    """Takes away what says how long the run was to be."""
    manifest = Manifest.load(run)
    assert manifest.finished is not None
    manifest.finished = {key: manifest.finished[key] for key in ("step", "stopped", "fit_step", "grok_step")}
    manifest.save(run)


@pytest.mark.parametrize("old", [False, True])
def test_a_run_counted_in_epochs_goes_on_for_more(
    tmp_path: Path, old: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = write_recipe(tmp_path, EPOCHS), tmp_path / "run"
    assert run_here(recipe, *QUIET) == 0 and step_of(run) == 8
    if old:
        as_earlier_code_wrote_it(run)
    capsys.readouterr()
    for words in ([], ["--num_train_epochs", "1.5"], ["--num_train_epochs", "2"]):
        assert run_here(recipe, *QUIET, *words) == 0
        assert FINISHED in capsys.readouterr().out and step_of(run) == 8
    assert run_here(recipe, *QUIET, "--num_train_epochs", "3") == 0
    assert FINISHED not in capsys.readouterr().out and step_of(run) == 12
    assert run_here(recipe, *QUIET, "--num_train_epochs", "3") == 0
    assert FINISHED in capsys.readouterr().out
    results = RunFolder.read(run)
    assert results.total_steps == 12 and results.starts[-1]["total_steps"] == 12
    # What is asked for in steps afterwards counts as well.
    recipe.write_text(EPOCHS.replace("num_train_epochs: 2", "max_steps: 14"))
    assert run_here(recipe, *QUIET) == 0 and step_of(run) == 14


STOPS = RECIPE.replace("group: Z11, train_fraction: 0.5", "group: Z3, operation: '*', train_fraction: 0.9")
STOPS = STOPS.replace("global_batch_size: 16", "global_batch_size: 8").replace("max_steps: 24", "max_steps: 2000")
STOPS += "stop_when: grokked\nstop_patience: 2\n"


@pytest.mark.parametrize("old", [False, True])
def test_more_patience_goes_on(tmp_path: Path, old: bool, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = write_recipe(tmp_path, STOPS), tmp_path / "run"
    assert run_here(recipe, *QUIET) == 0
    stopped = step_of(run)
    if old:
        as_earlier_code_wrote_it(run)
    capsys.readouterr()
    for words in ([], ["--stop_patience", "1"]):
        assert run_here(recipe, *QUIET, *words) == 0
        assert FINISHED in capsys.readouterr().out and step_of(run) == stopped
    assert run_here(recipe, *QUIET, "--stop_patience", "4") == 0
    assert FINISHED not in capsys.readouterr().out and stopped < step_of(run) < 2000
    assert run_here(recipe, *QUIET, "--stop_patience", "4") == 0
    assert FINISHED in capsys.readouterr().out


def test_replayed_rows_count_in_the_report_too(tmp_path: Path) -> None:
    """60 rows of the corpus and as many of text: 2 epochs of 16 rows are 15 updates where the corpus alone has 8."""
    base = make_base(tmp_path / "base", "gpt2", steps=1)
    (tmp_path / "text.txt").write_text(sentences(60, 1))
    model = f"model: {{model_name_or_path: {base}, vocabulary: tokens}}\n"
    text = "".join(model if line.startswith("model:") else f"{line}\n" for line in EPOCHS.strip().splitlines())
    text += f"replay: {{source: {tmp_path / 'text.txt'}, ratio: 0.5, length: 8}}\n"
    assert run_here(write_recipe(tmp_path, text), *QUIET) == 0
    results, last = RunFolder.read(tmp_path / "run"), step_of(tmp_path / "run")
    assert last > 8 and results.total_steps == last
    report = (tmp_path / "run" / "report.md").read_text()
    assert "It was stopped" not in report and f"{last} steps took" in report
    # A run of earlier code is counted by its corpus.
    starts = [{key: value for key, value in start.items() if key != "total_steps"} for start in results.starts]
    (tmp_path / "run" / "environment.json").write_text(json.dumps(starts))
    assert RunFolder.read(tmp_path / "run").total_steps == 8
