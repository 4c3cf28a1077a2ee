"""Which steps are kept, and a manifest that notices every change."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoints import KeepSchedule, keep, newest_good, rewind, seal
from pipeline.lock import RunLock
from pipeline.manifest import Manifest, add
from pipeline.parameters import ParameterError
from pipeline.upkeep import main


def write_weights(text: str = "weights") -> object:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_text(text)
        (folder / "config.json").write_text("{}")

    return write


def checkpoint(run: Path, step: int) -> None:
    folder = run / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_text(f"weights of {step}")
    (folder / "optimizer.pt").write_text("moments")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (0, 1, 2):
        keep(tmp_path, step, write_weights(f"weights of {step}"), {"eval_id_exact_match": step / 10})
    for step in (5, 10, 15):
        checkpoint(tmp_path, step)
        seal(tmp_path, step, most=2)
    return tmp_path


def test_pythia_s_schedule() -> None:
    schedule = KeepSchedule(powers_of_two=True, every=((1000, None),))
    kept = [step for step in range(143_001) if schedule.keeps(step)]
    early = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert [step for step in kept if step < 1000] == early
    assert set(range(1000, 143_001, 1000)) < set(kept)


def test_the_schedule_of_the_grokked_transformers_paper() -> None:
    schedule = KeepSchedule(initial=False, powers_of_two=False, every=((2000, 40_000), (50_000, None)))
    assert sum(schedule.keeps(step) for step in range(0, 1_500_001, 1000)) == 20 + 30


@given(
    initial=st.booleans(),
    powers=st.booleans(),
    pairs=st.lists(st.tuples(st.integers(1, 50), st.none() | st.integers(50, 300)), max_size=3),
    step=st.integers(0, 1000),
)
def test_a_step_is_kept_exactly_when_a_rule_names_it(
    initial: bool, powers: bool, pairs: list[tuple[int, int | None]], step: int
) -> None:
    schedule = KeepSchedule(initial, powers, tuple(pairs))
    named = {0} if initial else set()
    named |= {2**k for k in range(11)} if powers else set()
    for every, until in pairs:
        named |= set(range(every, (1000 if until is None else until) + 1, every))
    assert schedule.keeps(step) == (step in named)


@pytest.mark.parametrize("every", [((0, None),), ((-1, 5),), ((10, 5),)])
def test_impossible_pairs_are_refused(every: tuple[tuple[int, int | None], ...]) -> None:
    with pytest.raises(ParameterError, match="every"):
        KeepSchedule(every=every)


def test_the_manifest_tells_what_is_there(run: Path) -> None:
    manifest = Manifest.load(run)
    assert sorted(manifest.kept) == [0, 1, 2] and sorted(manifest.resumable) == [10, 15]
    assert manifest.kept[1].metrics == {"eval_id_exact_match": 0.1}
    assert manifest.kept[1].files.keys() == {"model.safetensors", "config.json"}
    assert not (run / "checkpoint-5").exists()
    assert newest_good(run, manifest) == (15, [])


def test_without_a_limit_all_checkpoints_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
        seal(tmp_path, step, most=None)
    assert sorted(Manifest.load(tmp_path).resumable) == [1, 2, 3]


def test_keeping_a_step_is_all_or_nothing(run: Path) -> None:
    def breaks(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError("No space left on device")

    before = (run / "manifest.json").read_text()
    with pytest.raises(OSError, match="No space"):
        keep(run, 3, breaks, {})
    assert (run / "manifest.json").read_text() == before
    assert sorted(path.name for path in (run / "steps").iterdir()) == ["step0", "step1", "step2"]


def test_a_kept_step_can_be_written_again(run: Path) -> None:
    keep(run, 2, write_weights("other weights"), {})
    assert Manifest.load(run).kept[2].damage(run) is None
    assert (run / "steps/step2/model.safetensors").read_text() == "other weights"


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


@given(st.integers(0, 300), st.booleans(), st.lists(st.tuples(st.integers(1, 50), st.none() | st.integers(50, 300))))
def test_the_steps_of_a_schedule_are_those_that_it_keeps(
    last: int, powers: bool, pairs: list[tuple[int, int | None]]
) -> None:
    schedule = KeepSchedule(powers_of_two=powers, every=tuple(pairs))
    assert {step for step in schedule.steps(last) if step <= last} == set(filter(schedule.keeps, range(last + 1)))


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
    assert "'some' is none of all, last, log, or numbers" in capsys.readouterr().err
    assert main(["prune", str(run), "--keep", "7"]) == 2
    assert "step 7 was not kept" in capsys.readouterr().err
    with RunLock(run):
        assert main(["prune", str(run), "--keep", "last"]) == 2
    assert "is in use by pid" in capsys.readouterr().err
    assert sorted(Manifest.load(run).kept) == [0, 1, 2]


def test_listing_a_step_costs_the_same_however_many_there_are(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = Manifest.load(run).kept[1]
    sizes = []
    written = (run / "manifest.json").read_bytes()
    for step in range(3, 1003):
        path = next(run.glob("manifest.*.journal"))
        before = path.stat().st_size
        add(run, "kept", step, dataclasses.replace(entry, path=f"steps/step{step}"))
        sizes.append(path.stat().st_size - before)
        # What is there already is neither read nor written again.
        monkeypatch.setattr(Manifest, "load", classmethod(lambda *_: pytest.fail("the whole manifest was read")))
    monkeypatch.undo()
    assert (run / "manifest.json").read_bytes() == written
    assert max(sizes) - min(sizes) < 20  # digits of the step
    manifest = Manifest.load(run)
    assert len(manifest.kept) == 1003 and not manifest.breaks()


def test_a_journal_that_was_cut_off_or_left_behind_changes_nothing(run: Path) -> None:
    (journal,) = run.glob("manifest.*.journal")
    whole = journal.read_bytes()
    before = Manifest.load(run)
    journal.write_bytes(whole + b'{"tier": "kept", "step": 3, "en')
    assert Manifest.load(run) == before
    before.save(run)
    journal.write_bytes(whole.replace(b'"step": 2', b'"step": 7'))  # of a generation that is over
    assert sorted(Manifest.load(run).kept) == [0, 1, 2]
    (run / "manifest.99.journal").write_bytes(b"[]\n")
    with pytest.raises(ValueError, match=r"manifest\.99\.journal is damaged"):
        Manifest.load(run)


def test_going_back_forgets_what_came_later(run: Path) -> None:
    checkpoint(run, 20)
    rewind(run, Manifest.load(run), 10)
    manifest = Manifest.load(run)
    assert sorted(manifest.kept) == [0, 1, 2] and sorted(manifest.resumable) == [10]
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-10"]
    rewind(run, manifest, None)
    assert not Manifest.load(run).kept and not list(run.glob("steps/*"))


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
