"""`python -m pipeline.runs`: every change is noticed, and what is shown and deleted is what was asked for."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.runs.__main__ import main
from pipeline.runs.checkpoints import keep, newest_good, rewind, seal
from pipeline.runs.lock import RunLock
from pipeline.runs.manifest import Manifest
from tests.kept_steps import checkpoint, write_run, write_weights


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("steps/step1/model.safetensors", "weights of 2", "corrupted"),  # a swapped step, of the same size
        ("steps/step1/model.safetensors", "weights", "bytes, not"),
        ("checkpoint-15/optimizer.pt", None, "is missing"),
    ],
)
def test_verify_finds(
    path: str, content: str | None, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(run)]) == 0
    assert "5 of 5 folders" in capsys.readouterr().out
    if content is None:
        (run / path).unlink()
    else:
        (run / path).write_text(content)
    assert main(["verify", str(run)]) == 1
    out = capsys.readouterr().out
    bad = [line for line in out.splitlines() if message in line]
    assert len(bad) == 1 and bad[0].startswith(path.rpartition("/")[0])
    assert "4 of 5 folders" in out


def test_verify_finds_what_the_manifest_does_not_list(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(run, 20)
    assert main(["verify", str(run)]) == 1
    assert "checkpoint-20: is not in the manifest" in capsys.readouterr().out
    assert newest_good(run, Manifest.load(run)) == (15, ["skipping checkpoint-20: torn: it was never finished"])


def rewrite(run: Path, change: Any) -> None:
    """The manifest as somebody else would have it, hashes and all."""
    manifest = Manifest.load(run)
    change(manifest)
    manifest.save(run)


def swap(manifest: Manifest) -> None:
    """The entries of steps 1 and 2 under each other's number, for folders that are swapped too."""
    one, two = manifest.kept[1], manifest.kept[2]
    manifest.kept[1] = dataclasses.replace(two, path=one.path)
    manifest.kept[2] = dataclasses.replace(one, path=two.path)


def swap_folders(run: Path) -> None:
    for source, target in (("step1", "x"), ("step2", "step1"), ("x", "step2")):
        (run / "steps" / source).rename(run / "steps" / target)


def bad_lines(run: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["verify", str(run)]) == 1
    return [line for line in capsys.readouterr().out.splitlines()[:-1] if not line.endswith(": ok")]


def test_verify_finds_two_steps_that_were_swapped_with_their_hashes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swap_folders(run)
    assert len(bad_lines(run, capsys)) == 2
    rewrite(run, swap)
    assert bad_lines(run, capsys) == [
        "steps/step1: its entry in the manifest was changed",
        "steps/step2: its entry in the manifest was changed",
    ]


def test_verify_finds_a_run_that_does_not_descend_from_its_own_step_0(
    run: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path_factory.mktemp("other")
    for step in (0, 1, 2):
        keep(other, step, write_weights(f"other weights of {step}"), {})
    checkpoint(other, 15)
    seal(other, 15, most=None)
    for path in ("steps/step0", "checkpoint-15"):
        shutil.rmtree(run / path)
        shutil.copytree(other / path, run / path)
    theirs = Manifest.load(other)
    rewrite(run, lambda manifest: manifest.kept.update({0: theirs.kept[0]}))
    rewrite(run, lambda manifest: manifest.resumable.update({15: theirs.resumable[15]}))
    assert bad_lines(run, capsys) == [
        "steps/step1: does not descend from step 0 of this run",
        "checkpoint-15: does not descend from a kept step of this run",
    ]
    step, passed_over = newest_good(run, Manifest.load(run))
    assert step == 10 and "does not descend" in passed_over[0]


def test_verify_finds_a_metric_that_was_changed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run, lambda manifest: manifest.kept[1].metrics.update({"eval_id_exact_match": 0.99}))
    assert bad_lines(run, capsys) == ["steps/step1: its entry in the manifest was changed"]


def test_verify_finds_a_step_that_the_recipe_keeps_and_that_is_missing(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "recipe.yaml").write_text("checkpoints: {initial: true, powers_of_two: true, every: [[5, 10]]}\n")
    for step in (4, 5, 8, 10):
        keep(run, step, write_weights(), {})
    assert main(["verify", str(run)]) == 0
    keep(run, 16, write_weights(), {})
    capsys.readouterr()
    (run / "steps" / "step5").rename(run / "elsewhere")
    rewrite(run, lambda manifest: manifest.kept.pop(5))
    assert bad_lines(run, capsys) == [
        "steps/step8: does not descend from step 4 of this run",
        "steps/step5: is missing: the recipe keeps this step, and the manifest does not list it",
    ]


@pytest.mark.parametrize(
    ("tier", "change"),
    [
        ("kept", {"path": "../elsewhere"}),
        ("kept", {"path": "/etc"}),
        ("resumable", {"path": "steps/step1"}),
        ("kept", {"files": {"../../secret": {"sha256": "", "bytes": 0}}}),
        ("kept", {"files": {"/etc/passwd": {"sha256": "", "bytes": 0}}}),
    ],
)
def test_a_manifest_cannot_name_places_outside_the_run(
    tier: str, change: dict[str, Any], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(run, lambda _: None)
    facts = json.loads((run / "manifest.json").read_text())
    next(iter(facts[tier].values())).update(change)
    (run / "manifest.json").write_text(json.dumps(facts))
    assert main(["verify", str(run)]) == 2
    assert "manifest.json is damaged" in capsys.readouterr().err


def test_a_link_that_leads_out_of_the_run_is_found(
    run: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "model.safetensors"
    weights = run / "steps" / "step1" / "model.safetensors"
    weights.rename(outside)
    weights.symlink_to(outside)
    assert bad_lines(run, capsys) == ["steps/step1: model.safetensors leads out of the run folder"]


def test_show(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run), "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("steps/step1\nafter step0; link ") and "eval_id_exact_match" in out and "0.1" in out
    assert "model.safetensors" in out and Manifest.load(run).kept[1].files["config.json"]["sha256"] in out
    assert main(["show", str(run), "3"]) == 2
    assert capsys.readouterr().err == "show: step 3 was not kept; kept are 0, 1, 2\n"


def test_prune_deletes_weights_and_keeps_what_was_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", str(run), "--keep", "0,2", "--dry-run"]) == 0
    assert "1 steps would go, 0.0 MB: 1" in capsys.readouterr().out
    assert (run / "steps" / "step1").exists()
    assert main(["prune", str(run), "--keep", "0,2"]) == 0
    assert sorted(path.name for path in (run / "steps").iterdir()) == ["step0", "step2"]
    assert sorted(Manifest.load(run).kept) == [0, 2]
    assert main(["list", str(run)]) == 0
    assert "step1               pruned  id 0.100" in capsys.readouterr().out
    assert main(["verify", str(run)]) == 0  # the chain goes on through what was pruned
    keep(run, 3, write_weights(), {})
    assert main(["verify", str(run)]) == 0
    rewind(run, Manifest.load(run), 2)
    assert sorted(Manifest.load(run).chain()) == [0, 1, 2]


def test_prune_refuses_what_it_does_not_understand_and_a_run_in_progress(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", str(run), "--keep", "some"]) == 2
    assert "'some' is not all, last, log, or numbers" in capsys.readouterr().err
    assert main(["prune", str(run), "--keep", "7"]) == 2
    assert "step 7 was not kept" in capsys.readouterr().err
    with RunLock(run):
        assert main(["prune", str(run), "--keep", "last"]) == 2
    assert "is in use by pid" in capsys.readouterr().err
    assert sorted(Manifest.load(run).kept) == [0, 1, 2]


def test_list_shows_steps_and_metrics(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(run)]) == 0
    out = capsys.readouterr().out
    assert "step2" in out and "id 0.200" in out and "checkpoint-15" in out


def test_a_folder_that_is_no_run_and_a_damaged_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text('{"kept": ')
    assert main(["verify", str(tmp_path)]) == 2
    assert "manifest.json is damaged" in capsys.readouterr().err
