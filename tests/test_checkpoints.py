"""Which steps are kept, and a manifest that notices every change."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checkpoints import KeepSchedule, keep, newest_good, rewind, seal
from pipeline.manifest import Manifest
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
