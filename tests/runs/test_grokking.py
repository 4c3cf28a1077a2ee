"""A run groks only where generalization is delayed, and everything that tells of a run says the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pipeline.hub.cards import model_card
from pipeline.models.pretrained import Pretrained
from pipeline.plots.training import step_marks
from pipeline.report.__main__ import main
from pipeline.report.run_report import summary, write_report
from pipeline.report.summary import outcome, story
from pipeline.runs.entry import Entry
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import GrokTracker, judged_split, known_gen_step, match_key
from pipeline.runs.manifest import Manifest
from pipeline.utils.errors import ParameterError
from tests.tiny import RECIPE, run_here, write_recipe
from tests.written_runs import COMPOSITION, write_run

Course = Mapping[int, Sequence[float]]  # step -> exact match of train and of id

QUICKSTART: Course = {0: (0, 0), 150: (0.97, 0.03), 175: (1, 0.05), 975: (1, 0.98), 1000: (1, 1), 1025: (1, 1)}
# Twice as late would be 6,500: the accuracy at the fit step decides.
SMALL: Course = {3000: (0.98, 0.65), 3250: (0.99, 0.72), 5250: (1, 0.985), 5500: (1, 0.995), 5750: (1, 0.98)}
SMALL_FROM_BELOW: Course = {**SMALL, 3250: (0.99, 0.49)}
LOGIC: Course = {1500: (0.9, 0.9), 1750: (1, 0.99), 2000: (1, 0.99)}
# Powers of two are all that is evaluated before the first hundred steps: twice the step is the next evaluation.
ON_EACH_OTHER: Course = {16: (0.7, 0.69), 32: (0.991, 0.988), 64: (1, 1), 100: (1, 1)}
NOISY_LABELS: Course = {100: (0.8, 0.99), 200: (0.8, 0.5), 300: (0.85, 1), 400: (0.85, 1)}

# fit, gen and grok step, gap, and the share of later evaluations at or above the threshold.
FOUND: dict[str, tuple[Course, list[float | None]]] = {
    "quickstart": (QUICKSTART, [175, 1000, 1000, 5.71, 1]),
    "composition_small": (SMALL, [3250, 5500, None, 1.69, 0]),
    "composition_small, from below a half": (SMALL_FROM_BELOW, [3250, 5500, 5500, 1.69, 0]),
    "curriculum_logic": (LOGIC, [1750, 1750, None, 1, 1]),
    "curves on each other": (ON_EACH_OTHER, [32, 64, None, 2, 1]),
    "at the next evaluation, from far below": ({32: (0.99, 0.4), 64: (1, 1)}, [32, 64, 64, 2, None]),
    "twice as late": ({100: (1, 0.6), 150: (1, 0.6), 200: (1, 1)}, [100, 200, 200, 2, None]),
    "not quite twice as late": ({100: (1, 0.6), 150: (1, 0.6), 199: (1, 1)}, [100, 199, None, 1.99, None]),
    "fitted before any step": ({0: (1, 0.9), 10: (1, 0.95), 20: (1, 1)}, [0, 20, 20, None, None]),
    "both before any step": ({0: (1, 1), 10: (1, 1)}, [0, 0, None, None, 1]),
    "without fitting": (NOISY_LABELS, [None, 100, None, None, 2 / 3]),
    "before fitting": ({100: (0.8, 1), 200: (1, 1)}, [200, 100, None, 0.5, 1]),
    "fitted only": ({100: (1, 0.1), 200: (1, 0.2)}, [100, None, None, None, None]),
    "neither": ({100: (0.1, 0.1)}, [None] * 5),
}


def tracked(course: Course, held_out: str | None = "id") -> GrokTracker:
    tracker = GrokTracker(held_out)
    for step, (train, match) in course.items():
        tracker.update(step, {match_key("train"): train, match_key(held_out or "id"): match, "weight_norm": 20.0})
        tracker.update(step, {"loss": 1.0})  # other lines of metrics.jsonl
    return tracker


@pytest.mark.parametrize("name", FOUND)
def test_only_what_is_delayed_is_grokking(name: str) -> None:
    course, expected = FOUND[name]
    assert list(tracked(course).summary().values()) == pytest.approx(expected)
    assert list(tracked(course).summary()) == ["fit_step", "gen_step", "grok_step", "grok_gap", "stays"]


def test_the_split_that_decides_is_id_or_the_first_that_is_held_out() -> None:
    assert judged_split(["ood", "id"]) == "id" and judged_split(["test", "ood"]) == "test"
    assert judged_split([]) is None
    assert tracked(QUICKSTART, "test").grok_step == 1000
    assert tracked(QUICKSTART, None).summary()["gen_step"] is None and tracked(QUICKSTART, None).streak == 0


@pytest.mark.parametrize("name", ["quickstart", "composition_small", "curriculum_logic", "without fitting", "neither"])
def test_every_place_follows(name: str, tmp_path: Path) -> None:
    """Title, story, terminal, marks, table of a comparison and model card."""
    course, (fit, gen, grok, _, _) = FOUND[name]
    run = write_run(tmp_path / "run", course, final=[1, 1])
    results = write_report(run)
    facts = json.loads((run / "manifest.json").read_text())
    last = max(course)
    facts["kept"] = {str(last): {"path": f"steps/step{last}", "files": {}, "metrics": {}}}
    (run / "manifest.json").write_text(json.dumps(facts))
    other = write_run(tmp_path / "other", FOUND["quickstart"][0], "--weight_decay=3", final=[1, 1])
    assert main([str(run), str(other), "--output", str(tmp_path / "both")]) == 0
    [row] = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (tmp_path / "both" / "report.md").read_text().splitlines()
        if "weight\\_decay 1" in line and "runs" not in line and str(run) in line
    ]
    assert row[2:5] == ["–" if step is None else f"{step:,}" for step in (fit, gen, grok)]
    results = RunFolder.read(run)
    card = model_card(results, [], "user/x", None, "")
    assert f"| `grok_step` | {'–' if grok is None else f'{grok:,}'} |" in card
    assert f"| `gen_step` | {'–' if gen is None else f'{gen:,}'} |" in card
    places = [outcome(results), *(mark.text for mark in step_marks(results.grok))]
    places += [line for line in (run / "report.md").read_text().splitlines() if line.startswith("# ")]
    places += [line for line in card.splitlines() if line.startswith("# ")]
    assert any("groks" in place for place in places) == (grok is not None)
    if gen is not None and fit is not None and grok is None:
        assert "no grokking was seen" in summary(results) or "no gap was seen" in summary(results)


def test_together_says_when_and_how_far_it_was(tmp_path: Path) -> None:
    run = RunFolder.read(write_run(tmp_path / "run", SMALL, "--max_steps=5750", final=[1, 1]))
    assert outcome(run) == "fits and generalizes together, at steps 3,250 and 5,500"
    assert story(run)[0] == (
        "It fits its training set at step 3,250 and generalizes at step 5,500, after 1.7 times as many steps; `id` was "
        "at 0.720 when it fitted: together, so no grokking was seen. From then on `id` was at 0.99 or above in 0 of 1 "
        "evaluation. At the end exact match is 1.000 on `train` and 1.000 on `id`."
    )


def two_hop(folder: Path, ood: float, known: float) -> str:
    matches = [1.0, 1.0, ood, 1.0, 1.0, known]
    return story(RunFolder.read(write_run(folder, {100: [1, 0, 0, 0, 1, 0], 1000: matches}, recipe=COMPOSITION)))[0]


def test_ood_is_told_with_what_is_known_of_its_facts(tmp_path: Path) -> None:
    early, late = two_hop(tmp_path / "early", 0.0, 0.47), two_hop(tmp_path / "late", 0.0, 1.0)
    assert early.endswith(
        "and 0.000 on `ood`. Of the facts behind `ood` it knows 0.470 (`ood_atomic`): until it knows them, `ood` does "
        "not say whether it can use them."
    )
    assert late.endswith("and 0.000 on `ood`. Of the facts behind `ood` it knows 1.000 (`ood_atomic`).")
    facts = {"train": 10, "id": 10, "ood": 10, "ood_atomic": 10}  # where these facts are held out, they are a result
    held_out = write_run(
        tmp_path / "held", {9: [1, 1, 0, 0]}, splits=facts, held_out=["id", "ood", "ood_atomic"], final=[1, 1, 0, 0]
    )
    assert "facts behind" not in story(RunFolder.read(held_out))[0]


def manifest_of(folder: Path, finished: dict[str, float | None]) -> Path:
    """A run folder with steps 500 and 1,000 kept, finished with these facts."""
    (folder / "steps").mkdir(parents=True)
    (folder / "recipe.yaml").write_text("")
    kept = {step: Entry(f"steps/step{step}", {}) for step in (500, 1000)}
    Manifest(kept, finished={"step": 1000, "stopped": True, **finished}).save(folder)
    return folder


@pytest.mark.parametrize(
    "finished",
    [
        {"fit_step": 400, "grok_step": 450, "grok_gap": 1.12},  # as earlier code wrote it: not delayed
        {"fit_step": 400, "gen_step": 450, "grok_step": None, "grok_gap": 1.12, "stays": 1.0},
        {"fit_step": 100, "gen_step": 450, "grok_step": 450, "grok_gap": 4.5, "stays": 1.0},
    ],
)
def test_the_next_stage_begins_where_the_last_one_generalized(tmp_path: Path, finished: dict[str, float]) -> None:
    assert known_gen_step(finished) == 450
    run = manifest_of(tmp_path / "run", finished)
    assert Pretrained(model_name_or_path=str(run), revision="grok").origin[0] == str(run / "steps" / "step500")


def test_a_stage_that_has_not_generalized_is_named(tmp_path: Path) -> None:
    run = manifest_of(tmp_path / "run", {"fit_step": 400, "gen_step": None, "grok_step": None})
    with pytest.raises(ParameterError, match="is a run that has not generalized, or is not finished"):
        _ = Pretrained(model_name_or_path=str(run), revision="grok").origin


def test_a_run_of_earlier_code_gets_the_new_words(tmp_path: Path) -> None:
    """It called every step at which it generalized its grok step; its evaluations say what it was."""
    run = write_run(tmp_path / "run", SMALL, final=[1, 1])
    facts = json.loads((run / "manifest.json").read_text())
    facts["finished"] = {"step": 5750, "stopped": True, "fit_step": 3250, "grok_step": 5500, "grok_gap": 1.69}
    (run / "manifest.json").write_text(json.dumps(facts))
    assert "groks at" not in summary(write_report(run)) and "groks at" not in (run / "report.md").read_text()


def test_a_run_whose_curves_lie_on_each_other_stops_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training to the end: what is seen of the rule on the terminal, in the manifest and for the next stage."""
    text = RECIPE.replace("group: Z11, train_fraction: 0.5", "group: Z3, operation: '*', train_fraction: 0.9")
    text = text.replace("global_batch_size: 16", "global_batch_size: 8").replace("max_steps: 24", "max_steps: 2000")
    assert run_here(write_recipe(tmp_path, text + "stop_when: grokked\nstop_patience: 2\n")) == 0
    run, said = RunFolder.read(tmp_path / "run"), capsys.readouterr().out
    finished = run.manifest.finished
    assert finished and finished["stopped"] and finished["step"] < 2000
    found = run.grok.summary()
    assert {key: finished[key] for key in found} == found and found["gen_step"] is not None
    [news] = [line for line in said.splitlines() if line.startswith(f"step {found['gen_step']:>4}/")]
    assert news.endswith("generalizes" if found["grok_step"] is None else "groks")


def test_stopping_needs_something_that_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The authors' files may hold nothing but probes of what is trained."""
    rows = [{"input_text": f"<e{i}><r>", "target_text": f"<e{i}><r><e{i + 1}></a>", "type": "facts"} for i in range(9)]
    folder = tmp_path / "data"
    folder.mkdir()
    for name, kinds in (("train", False), ("valid", False), ("test", True)):
        found = [row if kinds else {key: row[key] for key in ("input_text", "target_text")} for row in rows]
        (folder / f"{name}.json").write_text(json.dumps(found))
    (folder / "vocab.json").write_text(json.dumps(["<r>", "</a>", *(f"<e{i}>" for i in range(10))]))
    corpus = "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}"
    text = RECIPE.replace(corpus, f"{{name: published, path: {folder}}}").replace("size: 16", "size: 3")
    recipe = write_recipe(tmp_path, text)
    assert run_here(recipe, "--stop_when", "grokked") == 2
    assert "stop_when: the corpus has no held-out split to generalize to; write never" in capsys.readouterr().err
    assert run_here(recipe, "--max_steps", "2") == 0
    assert "Its corpus has no held-out split to generalize to." in (tmp_path / "run" / "report.md").read_text()
