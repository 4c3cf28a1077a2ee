"""Which steps are kept, and that they are written whole or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runs.checkpoints import KeepSchedule, keep, newest_good, rewind, seal
from pipeline.runs.manifest import Manifest, add
from pipeline.utils.errors import ParameterError
from tests.kept_steps import checkpoint, torn, write_run, write_weights


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


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


@given(st.integers(0, 300), st.booleans(), st.lists(st.tuples(st.integers(1, 50), st.none() | st.integers(50, 300))))
def test_the_steps_of_a_schedule_are_those_that_it_keeps(
    last: int, powers: bool, pairs: list[tuple[int, int | None]]
) -> None:
    schedule = KeepSchedule(powers_of_two=powers, every=tuple(pairs))
    assert {step for step in schedule.steps(last) if step <= last} == set(filter(schedule.keeps, range(last + 1)))


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
    torn(run, 20)
    rewind(run, Manifest.load(run), 10)
    manifest = Manifest.load(run)
    assert sorted(manifest.kept) == [0, 1, 2] and sorted(manifest.resumable) == [10]
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-10"]
    rewind(run, manifest, None)
    assert not Manifest.load(run).kept and not list(run.glob("steps/*"))
