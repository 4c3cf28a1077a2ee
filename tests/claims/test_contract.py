"""Every claim: its smallest budget is run as a user would, and what is recorded stands in the documents."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from pipeline.claims.__main__ import MISSED, REACHING, RESULTS, main
from pipeline.claims.pages import gallery
from pipeline.claims.record import missed, reaching, recorded, table, with_table
from pipeline.claims.runner import points_of, recipe_path
from pipeline.config.registry import load, names
from pipeline.corpora.store import build
from pipeline.run import main as train
from pipeline.utils.shipped import RECIPES

CLAIMS = names("claims")
KINDS: dict[str, Any] = {claim: load("claims", claim, "") for claim in CLAIMS}


def result_of(claim: str, folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main([claim, "--budget", "smoke", "--seeds", "0", "--jobs", "2", "--output_dir", str(folder), *words])
    said = capsys.readouterr()
    return status, said.out + said.err


def train_here(claim: str, folder: Path) -> None:
    """Trains a claim's runs in this process, which has imported torch; the claim then finds them finished."""
    kind = KINDS[claim]
    for arm in points_of(kind(budget="smoke", seeds=(0,)), folder).values():
        for point in arm:
            assert train([*point.command, "--callbacks.console.style=off"]) == 0


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_smallest_budget_runs_once_and_is_written(
    claim: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if claim != CLAIMS[0]:  # which starts processes, as a user does
        train_here(claim, tmp_path / "out")
    status, said = result_of(claim, tmp_path / "out", capsys)
    assert status == 0, said
    kind = KINDS[claim]
    facts = json.loads((tmp_path / "out" / "claim.json").read_text())
    made = kind.tiny()
    assert set(facts["arms"]) == set(made.arms())
    assert all(len(arm["runs"]) == 1 for arm in facts["arms"].values())
    assert [judged["name"] for judged in facts["targets"]] == [target.name for target in kind.targets]
    assert {judged["verdict"] for judged in facts["targets"]} == {"not judged"}
    assert str(tmp_path) not in json.dumps(facts)
    assert claim in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "figures" / f"{claim}.png").stat().st_size > 1000
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("metrics.jsonl")}
    status, said = result_of(claim, tmp_path / "out", capsys)
    assert status == 0 and "finished already" in said
    assert runs == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("metrics.jsonl")}


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_budget_is_a_recipe_that_can_be_read(claim: str, tmp_path: Path) -> None:
    kind = KINDS[claim]
    for budget in ("smoke", *kind.costs):
        made = kind(budget=budget)
        points = points_of(made, tmp_path)
        assert recipe_path(made).is_file()
        folders = [point.folder for arm in points.values() for point in arm]
        assert len(set(folders)) == len(folders) == len(points) * 3


def test_what_is_recorded_stands_in_the_recipes_document() -> None:
    text = (RECIPES / "README.md").read_text()
    assert with_table(text, table(recorded(RESULTS))) == text
    # What is not recorded stands there too, with the command that would.
    for claim in CLAIMS:
        kind = KINDS[claim]
        assert f"python -m pipeline.claims {claim}" in text and all(target.name in text for target in kind.targets)


def test_what_does_not_hold_stands_in_the_log_of_it() -> None:
    results, text = recorded(RESULTS), MISSED.read_text()
    assert with_table(text, missed(results)) == text
    verdicts = [judged["verdict"] for facts in results.values() for judged in facts["targets"]]
    assert sum(line.startswith("| [") for line in text.splitlines()) == sum(each != "holds" for each in verdicts)


def test_what_reaches_ood_stands_in_its_page_with_the_recorded_numbers() -> None:
    results, text = recorded(RESULTS), REACHING.read_text()
    assert with_table(text, reaching(results)) == text
    for arm, median, least, most in (("silent", "0", "0", "0.00990"), ("said", "0.921", "0.911", "0.980")):
        runs = results["ood_bridge_said"]["arms"][arm]["runs"]
        ends = sorted(run["values"]["ood"] for run in runs)
        assert [float(each) for each in (least, median, most)] == pytest.approx(ends, abs=5e-4)
        row = next(
            line for line in text.splitlines() if line.startswith("| [ood_bridge_said]") and f"| {arm} |" in line
        )
        assert f"| {median} ({least} to {most}) |" in row and "| 4,000 |" in row
    assert {"said", "silent"} == {*results["ood_bridge_said"]["arms"]}
    # Accuracies that no fact stands behind are not shown, and a claim without a record has its command.
    assert "zhang2024" not in text and (
        "ood_methods" in results or "not run: `python -m pipeline.claims ood_methods`" in text
    )


def test_what_the_page_on_ood_says_is_recorded() -> None:
    results, text = recorded(RESULTS), " ".join(REACHING.read_text().split())
    mechanism = {judged["name"]: judged["median"] for judged in results["wang2024_mechanism"]["targets"]}
    ood = {judged["name"]: judged["median"] for judged in results["ood_bridge_said"]["targets"]}
    assert f"`ood` is {ood['ood @ said']:.2f} in the median where the bridge is said" in text
    assert f"and {ood['ood @ silent']:.0f} where it is silent" in text
    assert f"a mean reciprocal rank of {mechanism['ood bridge @ composition']:.2f}" in text
    assert f"is not, with {mechanism['ood tail @ composition']:.2f}" in text
    looped = {arm: found["runs"] for arm, found in results["wang2024_looped"]["arms"].items()}
    hops, shared, own = (
        statistics.median(run["values"]["ood"] for run in looped[arm])
        for arm in ("shared, hops trained", "shared", "unshared")
    )
    assert len(looped["shared"]) == 5 and f"`ood` comes to {hops:.2f} in the median over five seeds" in text
    assert f"without such a target stay at {shared:.2f} at this size, and blocks of their own at {own:.2f}" in text
    assert "ood_methods" not in results  # the page says that nothing is recorded of it


def test_the_gallery_is_one_page_that_needs_no_network() -> None:
    page = gallery(recorded(RESULTS), RESULTS)
    assert all(f'id="{claim}"' in page for claim in CLAIMS)
    assert "http:" not in page and "https:" not in page and "<script" not in page


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if (RESULTS / f"{claim}.json").is_file()])
def test_a_record_is_of_the_claim_as_it_is(claim: str) -> None:
    facts = recorded(RESULTS)[claim]
    kind = KINDS[claim]
    made = kind(budget=facts["budget"], seeds=tuple(facts["seeds"]))
    arms = {name: arm["overrides"] for name, arm in facts["arms"].items()}
    assert arms == {name: dict(arm) for name, arm in made.arms().items()}
    bounds = [(target.name, target.paper, target.bounds) for target in kind.targets]
    assert [(judged["name"], judged["paper"], judged["holds"]) for judged in facts["targets"]] == bounds
    assert len(facts["seeds"]) >= 3 and "+changes" not in facts["revision"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["wang2024_compositoin"], "there is no claim 'wang2024_compositoin'; did you mean wang2024_composition?"),
        (["power2022_delay", "--budget", "smoke", "--record"], "a smoke run shows nothing"),
        (["power2022_delay", "--seeds", "0,0"], "seeds: (0, 0) are not one or more different numbers"),
        (["power2022_delay", "--seeds", "a"], "'a' is not a list of numbers"),
        (["power2022_delay", "--jobs", "0"], "--jobs 0: is not a number of runs"),
        (["--record"], "goes with the name of a claim"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert error in said and said.count("\n") == 1


def test_the_list_names_every_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(claim in said for claim in CLAIMS)


def test_what_the_runs_would_take_is_said_and_nothing_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--budget", "smoke", "--seeds", "0", "--jobs", "1", "--output_dir", str(tmp_path / "out"), "--check")
    assert main(["scheurer2023_ilf", *words]) == 0
    head, run, waiting, total = capsys.readouterr().out.splitlines()[-4:]  # after what is logged
    assert head.split()[:2] == ["run", "parameters"] and run.startswith("arm=refiner")
    assert waiting == "runs that go on from these, and are not checked: 1" and total.startswith("in all: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("claim", [claim for claim, kind in KINDS.items() if "paper" in kind.costs])
def test_corpora_models_and_batches_of_the_paper_s_size_fit_together(claim: str, tmp_path: Path) -> None:
    kind = KINDS[claim]
    built: dict[str, tuple[int, int]] = {}
    for points in points_of(kind(budget="paper", seeds=(0,)), tmp_path).values():
        recipe = points[0].recipe
        corpus = repr(recipe.corpus)
        if corpus not in built:
            stored = build(recipe.corpus)
            blocks = [block for split in stored.sizes for block in stored.blocks(split)]
            built[corpus] = stored.sizes["train"], max(b.prompts.shape[1] + b.answers.shape[1] for b in blocks)
        rows, longest = built[corpus]
        assert rows >= (recipe.options.global_batch_size or 1)
        if "model_name_or_path" not in recipe.model.as_dict():  # that of an earlier arm is not there yet
            assert longest - 1 <= recipe.model.max_length
